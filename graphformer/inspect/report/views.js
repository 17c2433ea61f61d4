// The views of one head. Each has fits(nodes), layout(scene) -> height, draw(scene) and
// hit(scene, x, y) -> {node} or {node, pair}.

const CLOSE = "Blue: what it attends to. Orange: what attends to it.";
const VIEWS = {};

VIEWS.arcs = {
  name: "Arcs",
  legend: "An arc runs from sender to receiver: above the row to a later node, below it to an " +
    "earlier one; a ring is a node that attends to itself. " + CLOSE,
  fits: (nodes) => !nodes.cross,
  layout(scene) {
    const { senders, edges, width, low } = scene;
    scene.step = (width - 20) / Math.max(senders.length, 1);
    scene.x = (k) => 10 + (k + 0.5) * scene.step;
    let up = 0, down = 0;
    for (let e = 0; e < edges.count; e++) {
      const apart = edges.receiver[e] - edges.sender[e];
      if (apart > up) up = apart;
      if (-apart > down) down = -apart;
    }
    const most = Math.min(360, 90 + width * 0.28), far = Math.max(up, down, 1) ** 0.8;
    scene.rise = (d) => (d ** 0.8 / far) * Math.min(most, Math.max(up, down, 1) * 26);
    scene.base = 14 + scene.rise(up);
    scene.under = scene.base + scene.rise(down) + 10;
    scene.at = (i) => scene.x(i - Math.max(low, 0));
    return scene.under + labelRoom(scene, senders, scene.step) + 6;
  },
  draw(scene) {
    const { ctx, edges, senders, base } = scene;
    const span = (e) => [scene.at(edges.sender[e]), scene.at(edges.receiver[e])];
    drawEdges(scene, (e) => {
      const [a, b] = span(e), apart = edges.receiver[e] - edges.sender[e];
      if (!apart) {
        ctx.moveTo(a + 4, base);
        ctx.arc(a, base, 4, 0, 2 * Math.PI);
        return;
      }
      ctx.moveTo(a, base);
      ctx.ellipse((a + b) / 2, base, Math.abs(b - a) / 2, scene.rise(Math.abs(apart)), 0,
        apart > 0 ? Math.PI : 0, apart > 0 ? 2 * Math.PI : Math.PI);
    }, (e) => {
      const apart = edges.receiver[e] - edges.sender[e];
      if (apart) arrowHead(ctx, scene.at(edges.receiver[e]), base, apart > 0 ? Math.PI / 2
        : -Math.PI / 2);
    });
    ctx.fillStyle = paint.soft;
    if (scene.step > 3)
      for (const i of senders) ctx.fillRect(scene.at(i) - 1, base - 1, 2, 2);
    labelRow(scene, senders, scene.x, scene.under, scene.step, true);
  },
  hit(scene, x) {
    const k = Math.floor((x - 10) / scene.step);
    return k >= 0 && k < scene.senders.length ? { node: scene.senders[k] } : null;
  },
};

VIEWS.rows = {
  name: "Two rows",
  legend: "Senders above, receivers below. " + CLOSE,
  fits: (nodes) => nodes.cross,
  layout(scene) {
    const { width, senders, receivers } = scene, room = (list) => {
      const step = (width - 20) / Math.max(list.length, 1);
      return { step, x: (k) => 10 + (k + 0.5) * step };
    };
    scene.upper = room(senders);
    scene.lower = room(receivers);
    scene.top = 22 + labelRoom(scene, senders, scene.upper.step);
    scene.bottom = scene.top + Math.min(280, 120 + width * 0.15);
    return scene.bottom + labelRoom(scene, receivers, scene.lower.step) + 24;
  },
  draw(scene) {
    const { ctx, edges, senders, receivers, top, bottom, upper, lower, nodes } = scene;
    const first = (list) => list[0] || 0;
    const ends = (e) => [upper.x(edges.sender[e] - first(senders)),
      lower.x(edges.receiver[e] - first(receivers))];
    drawEdges(scene, (e) => {
      const [a, b] = ends(e), middle = (top + bottom) / 2;
      ctx.moveTo(a, top + 3);
      ctx.bezierCurveTo(a, middle, b, middle, b, bottom - 3);
    }, (e) => arrowHead(ctx, ends(e)[1], bottom - 2, Math.PI / 2));
    labelRow(scene, senders, upper.x, top - 4, upper.step, false);
    labelRow(scene, receivers, lower.x, bottom + 4, lower.step, true);
    ctx.font = "12px system-ui, sans-serif";
    ctx.textAlign = "left";
    ctx.textBaseline = "alphabetic";
    ctx.fillStyle = paint.soft;
    ctx.fillText("senders", 8, 14);
    ctx.fillText("receivers", 8, scene.height - 6);
  },
  hit(scene, x, y) {
    const above = y < (scene.top + scene.bottom) / 2;
    const [list, { step }] = above ? [scene.senders, scene.upper] : [scene.receivers, scene.lower];
    const k = Math.floor((x - 10) / step);
    return k >= 0 && k < list.length ? { node: list[k] } : null;
  },
};

VIEWS.matrix = {
  name: "Matrix",
  legend: "Receivers in rows, senders in columns; the darker (in a dark page, the lighter), the " +
    "greater the weight.",
  fits: () => true,
  layout(scene) {
    const { senders, receivers, width } = scene, long = Math.max(receivers.length, 1);
    const cell = (room) => Math.min(room / Math.max(senders.length, 1), 30, 800 / long);
    const guess = cell(width - 40);
    scene.named = guess >= 9;
    scene.left = scene.named ? labelRoom(scene, receivers, guess, true) + 4 : 30;
    scene.cell = cell(width - scene.left - 8);
    scene.head = scene.named ? labelRoom(scene, senders, scene.cell) + 6 : 22;
    return scene.head + scene.cell * long + 10;
  },
  draw(scene) {
    const { ctx, edges, senders, receivers, left, head, cell, pick, order, nodes } = scene;
    const x = (i) => left + (i - (senders[0] || 0)) * cell;
    const y = (i) => head + (i - (receivers[0] || 0)) * cell, size = Math.max(1, Math.ceil(cell));
    for (const e of order) {
      ctx.fillStyle = css(shade(scene.part(e)));
      ctx.fillRect(Math.floor(x(edges.sender[e])), Math.floor(y(edges.receiver[e])), size, size);
    }
    ctx.strokeStyle = paint.line;
    ctx.strokeRect(left - 0.5, head - 0.5, senders.length * cell + 1, receivers.length * cell + 1);
    ctx.lineWidth = 2;
    if (receivers.includes(pick)) {
      ctx.strokeStyle = paint.in;
      ctx.strokeRect(left, y(pick), senders.length * cell, Math.max(cell, 2));
    }
    if (senders.includes(pick)) {
      ctx.strokeStyle = paint.out;
      ctx.strokeRect(x(pick), head, Math.max(cell, 2), receivers.length * cell);
    }
    ctx.lineWidth = 1;
    ctx.fillStyle = paint.soft;
    ctx.font = "11px system-ui, sans-serif";
    if (!scene.named) {
      ctx.textAlign = "left";
      ctx.textBaseline = "alphabetic";
      ctx.fillText("senders →", left, 14);
      ctx.rotate(Math.PI / 2);
      ctx.fillText("receivers →", head, -14);
      ctx.rotate(-Math.PI / 2);
      return;
    }
    labelRow(scene, senders, (k) => x(senders[k]) + cell / 2, head - 4, cell, false);
    ctx.font = `${Math.max(9, Math.min(13, cell * 0.85))}px ${FONT}`;
    ctx.textAlign = "right";
    ctx.textBaseline = "middle";
    for (const i of receivers)
      write(scene, visible(nodes.labels[i]), i, left - 5, y(i) + cell / 2, cell);
  },
  hit(scene, x, y) {
    const s = scene.senders[Math.floor((x - scene.left) / scene.cell)];
    const r = scene.receivers[Math.floor((y - scene.head) / scene.cell)];
    if (r === undefined) return s === undefined ? null : { node: s };
    return s === undefined ? { node: r } : { node: r, pair: [s, r] };
  },
};

VIEWS.text = {
  name: "Text",
  legend: "Shaded: what the chosen node attends to. Underlined in orange: what attends to it. " +
    "With none chosen, the shade is the sum of what each node sends.",
  fits: (nodes) => !nodes.senders.grid,
  layout(scene) {
    const { ctx, nodes, width } = scene, size = 14, line = 26;
    const texts = nodes.cross ? [["senders", scene.senders], ["receivers", scene.receivers]]
      : [["", scene.senders]];
    scene.boxes = [];
    scene.heads = [];
    let y = 10;
    for (const [title, list] of texts) {
      if (title) { scene.heads.push([title, y + 10]); y += 20; }
      let x = 10;
      for (const i of list) {
        const label = nodes.labels[i], name = visible(label, 24);
        ctx.font = `${size}px ${FONT}`;
        const wide = ctx.measureText(name).width + 6;
        if (x > 10 && x + wide > width - 10) { x = 10; y += line; }
        scene.boxes.push({ node: i, x, y, wide, tall: line - 4, name });
        x += wide + 1;
        if (/\n$/.test(label)) { x = 10; y += line; }
      }
      y += line + 8;
    }
    return y;
  },
  draw(scene) {
    const { ctx, boxes } = scene, { heat, back, part } = heatOf(scene);
    ctx.direction = "ltr";
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    ctx.font = "12px system-ui, sans-serif";
    ctx.fillStyle = paint.soft;
    for (const [title, y] of scene.heads) ctx.fillText(title, 10, y);
    ctx.font = `14px ${FONT}`;
    for (const box of boxes) cell(scene, box, heat, back, part);
  },
  hit: inBoxes,
};

function cell(scene, box, heat, back, part) {
  const { ctx, pick, found } = scene, w = heat.get(box.node), b = back.get(box.node);
  const given = w === undefined ? 0 : part(w);
  if (given > 0) {
    ctx.fillStyle = css(shade(given));
    ctx.fillRect(box.x, box.y, box.wide, box.tall);
  }
  if (found.has(box.node)) {
    ctx.fillStyle = paint.mark;
    ctx.fillRect(box.x, box.y, box.wide, 5);
  }
  if (b !== undefined) {
    ctx.fillStyle = paint.out;
    const tall = 2 + 3 * part(b);
    ctx.fillRect(box.x, box.y + box.tall - tall, box.wide, tall);
  }
  if (box.node === pick) {
    ctx.strokeStyle = paint.ink;
    ctx.lineWidth = 2;
    ctx.strokeRect(box.x + 1, box.y + 1, box.wide - 2, box.tall - 2);
  }
  ctx.fillStyle = given > 0 ? onShade(given) : paint.ink;
  if (box.name) ctx.fillText(box.name, box.x + 3, box.y + box.tall / 2);
}

function inBoxes(scene, x, y) {
  const box = scene.boxes.find((b) =>
    x >= b.x && x < b.x + b.wide && y >= b.y && y < b.y + b.tall);
  return box ? { node: box.node } : null;
}

VIEWS.patches = {
  name: "Patches",
  legend: "The image's patches in their places; special tokens above them. Shaded: what the " +
    "chosen patch attends to. Orange below: what attends to it. With none chosen, the shade is " +
    "the sum of what each sends.",
  fits: (nodes) => !nodes.cross && !!nodes.senders.grid,
  layout(scene) {
    const [rows, columns] = scene.nodes.senders.grid;
    const special = scene.nodes.columns - rows * columns;
    const side = Math.max(4, Math.min((scene.width - 20) / columns, 560 / rows, 56));
    const above = special ? 34 : 0;
    scene.boxes = [];
    scene.heads = [];
    for (let i = 0; i < scene.nodes.columns; i++) {
      const k = i - special;
      scene.boxes.push(k < 0
        ? { node: i, x: 10 + i * 62, y: 8, wide: 58, tall: 24, name: visible(scene.nodes.labels[i], 7) }
        : { node: i, x: 10 + (k % columns) * side, y: 10 + above + Math.floor(k / columns) * side,
          wide: side, tall: side, name: "" });
    }
    scene.grid = [10, 10 + above, columns * side, rows * side, side];
    return 20 + above + rows * side;
  },
  draw(scene) {
    const { ctx, boxes, grid } = scene, { heat, back, part } = heatOf(scene);
    ctx.font = `12px ${FONT}`;
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    ctx.strokeStyle = paint.line;
    ctx.lineWidth = 1;
    for (const box of boxes) ctx.strokeRect(box.x + 0.5, box.y + 0.5, box.wide, box.tall);
    for (const box of boxes) if (box.node !== scene.pick) cell(scene, box, heat, back, part);
    for (const box of boxes) if (box.node === scene.pick) cell(scene, box, heat, back, part);
  },
  hit: inBoxes,
};

// Nodes where they are: in space, or on the drawing of a molecule.
function placed(name, legend, points, picture) {
  return {
    name, legend,
    fits: (nodes) => !nodes.cross && points(nodes.senders) !== undefined,
    layout(scene) {
      const wide = picture ? Math.min(scene.width, 780) : scene.width;
      const tall = picture ? Math.round(wide * 420 / 640) : Math.min(wide, 560);
      const left = (scene.width - wide) / 2;
      scene.area = [left, 0, wide, tall];
      scene.xy = points(scene.nodes.senders, wide, tall, scene.turn).map(([x, y]) => [x + left, y]);
      return tall;
    },
    draw(scene) {
      const { ctx, xy, edges, senders, nodes, pick, found, area } = scene;
      if (picture && nodes.senders.image) {
        ctx.fillStyle = "#ffffff"; // rdkit draws in black
        ctx.fillRect(0, 0, scene.width, scene.height);
        ctx.drawImage(nodes.senders.image, ...area);
      }
      if (nodes.senders.kind === "residue") { // the chain
        ctx.strokeStyle = paint.line;
        ctx.lineWidth = 1.5;
        ctx.beginPath();
        senders.forEach((i, k) => (k ? ctx.lineTo(...xy[i]) : ctx.moveTo(...xy[i])));
        ctx.stroke();
      }
      drawEdges(scene, (e) => {
        const [a, b] = [xy[edges.sender[e]], xy[edges.receiver[e]]];
        if (edges.sender[e] === edges.receiver[e]) {
          ctx.moveTo(a[0] + 7, a[1]);
          ctx.arc(a[0], a[1], 7, 0, 2 * Math.PI);
          return;
        }
        const [mx, my] = bent(a, b);
        ctx.moveTo(...a);
        ctx.quadraticCurveTo(mx, my, ...b);
      }, (e) => {
        if (edges.sender[e] === edges.receiver[e]) return;
        const [a, b] = [xy[edges.sender[e]], xy[edges.receiver[e]]], [mx, my] = bent(a, b);
        arrowHead(ctx, ...b, Math.atan2(b[1] - my, b[0] - mx), 9);
      });
      const few = senders.length <= 60 && !picture;
      ctx.font = `12px ${FONT}`;
      ctx.textAlign = "left";
      ctx.textBaseline = "middle";
      for (const i of senders) {
        const [x, y] = xy[i], big = i === pick || found.has(i);
        if (picture && !big) continue; // dots would hide the letters of atoms
        ctx.fillStyle = found.has(i) ? paint.mark : i === pick ? paint.ink : paint.soft;
        ctx.beginPath();
        ctx.arc(x, y, big ? 5 : 3, 0, 2 * Math.PI);
        ctx.fill();
        if (big) { ctx.strokeStyle = paint.ink; ctx.lineWidth = 1.5; ctx.stroke(); }
        if ((few || big) && !picture) write(scene, visible(nodes.labels[i]), i, x + 8, y, 12);
      }
    },
    hit(scene, x, y) {
      let best = null, near = 18 * 18;
      for (const i of scene.senders) {
        const d = (scene.xy[i][0] - x) ** 2 + (scene.xy[i][1] - y) ** 2;
        if (d < near) { near = d; best = { node: i }; }
      }
      return best;
    },
  };
}

// A slight bow, so that the two directions of a pair lie beside each other.
function bent([ax, ay], [bx, by]) {
  return [(ax + bx) / 2 - (by - ay) * 0.12, (ay + by) / 2 + (bx - ax) * 0.12];
}

// How far nodes are from the middle, however they are turned.
function reachOf(p) {
  const found = { across: 1e-9, up: 1e-9, flat: true };
  for (let i = 0; i < p.length; i += 3) {
    found.across = Math.max(found.across, Math.hypot(p[i], p[i + 2]));
    found.up = Math.max(found.up, Math.hypot(p[i + 1], p[i + 2]));
    if (p[i + 2]) found.flat = false;
  }
  return found;
}

VIEWS.places = placed("Places",
  "Nodes at their coordinates; drag to turn them where there are three dimensions. " + CLOSE,
  (side, width, height, turn) => {
    if (!side.pos) return undefined;
    side.xyz = side.xyz || unpacked(side.pos);
    if (!width) return side.xyz;
    const p = side.xyz, reach = reachOf(p), [yaw, pitch] = reach.flat ? [0, 0] : turn;
    const scale = Math.min((width / 2 - 30) / reach.across, (height / 2 - 20) / reach.up);
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    return Array.from({ length: side.count }, (_, i) => {
      const [x, y, z] = [p[3 * i], p[3 * i + 1], p[3 * i + 2]];
      const across = cy * x + sy * z, deep = cy * z - sy * x;
      return [width / 2 + scale * across, height / 2 - scale * (cp * y - sp * deep)];
    });
  }, false);

VIEWS.molecule = placed("Molecule", "Edges over the atoms. " + CLOSE,
  (side, width, height) => {
    if (!side.places) return undefined;
    side.parts = side.parts || unpacked(side.places);
    if (!width) return side.parts;
    return Array.from({ length: side.count }, (_, i) =>
      [side.parts[2 * i] * width, side.parts[2 * i + 1] * height]);
  }, true);
