// A scene: the edges of one head as they are seen, and how lines and labels are drawn.

let paint = null; // colours of the theme

function readColours(element) {
  const style = getComputedStyle(element);
  const of = (name) => style.getPropertyValue("--" + name).trim();
  paint = Object.fromEntries(
    ["paper", "ink", "soft", "line", "panel", "edge", "in", "out", "mark", "mark-ink"]
      .map((name) => [name, of(name)]));
  const stops = of("scale").split(/\s+/).map(rgb);
  paint.ramp = Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (stops.length - 1), k = Math.min(Math.floor(at), stops.length - 2);
    return stops[k].map((x, c) => Math.round(x + (stops[k + 1][c] - x) * (at - k)));
  });
  // The same as one number a pixel: opaque, blue, green, red.
  paint.words = Uint32Array.from(paint.ramp, ([r, g, b]) => 0xff000000 + (b << 16) + (g << 8) + r);
}

function rgb(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

// Of a weight relative to the largest: small ones stay visible.
function shade(part) {
  return paint.ramp[Math.max(0, Math.min(255, Math.round(255 * Math.sqrt(Math.max(part, 0)))))];
}

const css = (colour) => `rgb(${colour.join(",")})`;
const onShade = (part) => { // black or white, whichever is read better
  const [r, g, b] = shade(part);
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#101418" : "#ffffff";
};

// Everything that a view needs to draw.
function makeScene(ctx, width, edges, nodes, state) {
  const order = Uint32Array.from({ length: edges.count }, (_, e) => e)
    .sort((a, b) => edges.weight[a] - edges.weight[b]); // the heaviest are drawn last, on top
  let heaviest = 0;
  for (let e = 0; e < edges.count; e++) heaviest = Math.max(heaviest, edges.weight[e]);
  const [low, high] = state.window;
  const within = (from, to) => {
    const found = [];
    for (let i = Math.max(from, from + low); i < Math.min(to, from + high + 1); i++) found.push(i);
    return found;
  };
  return {
    ctx, width, edges, nodes, order, heaviest: heaviest || 1,
    pick: state.pick, pair: state.pair, found: state.found, turn: state.turn, low,
    senders: within(0, nodes.columns),
    receivers: nodes.cross ? within(nodes.columns, nodes.columns + nodes.rows)
      : within(0, nodes.columns).filter((i) => i >= nodes.first),
    part: (e) => edges.weight[e] / (heaviest || 1),
  };
}

// Draws all edges, pale while a node is chosen, and then the chosen node's: blue to whom it
// attends, orange who attends to it. line(e) adds one edge to the path.
function drawEdges(scene, line, arrow) {
  const { ctx, order, edges, pick } = scene, levels = 12, dim = pick >= 0 ? 0.22 : 1;
  ctx.lineCap = "round";
  let at = 0;
  ctx.strokeStyle = paint.edge;
  for (let level = 0; level < levels; level++) { // few strokes of many lines are fast
    const bound = (level + 1) / levels, middle = (level + 0.5) / levels;
    ctx.globalAlpha = dim * (0.1 + 0.8 * middle);
    ctx.lineWidth = 0.6 + 2.4 * middle;
    ctx.beginPath();
    for (; at < order.length && (scene.part(order[at]) <= bound || level === levels - 1); at++)
      line(order[at]);
    ctx.stroke();
  }
  if (pick < 0) { ctx.globalAlpha = 1; return; }
  for (const e of order) {
    const into = edges.receiver[e] === pick;
    if (!into && edges.sender[e] !== pick) continue;
    const part = scene.part(e);
    ctx.globalAlpha = 0.35 + 0.65 * part;
    ctx.strokeStyle = ctx.fillStyle = into ? paint.in : paint.out;
    ctx.lineWidth = 1 + 3 * part;
    ctx.beginPath();
    line(e);
    ctx.stroke();
    if (arrow) arrow(e);
  }
  ctx.globalAlpha = 1;
}

function arrowHead(ctx, x, y, angle, size = 7) {
  ctx.beginPath();
  ctx.moveTo(x, y);
  for (const side of [-0.4, 0.4])
    ctx.lineTo(x - size * Math.cos(angle + side), y - size * Math.sin(angle + side));
  ctx.fill();
}

const FONT = 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace';

// Labels along a row of nodes, upright where they do not fit beside each other; every k-th where
// even that is too narrow. The chosen node and those that were found are always named.
function labelRow(scene, list, x, y, step, down) {
  const { ctx, nodes, pick, found } = scene, size = Math.max(9, Math.min(13, step * 0.85));
  ctx.font = `${size}px ${FONT}`;
  ctx.direction = "ltr";
  const names = list.map((i) => visible(nodes.labels[i]));
  const flat = names.every((name) => ctx.measureText(name).width < step - 4);
  const every = flat ? 1 : Math.max(1, Math.ceil((size * 1.05) / step));
  const special = list.flatMap((i, k) => (i === pick || found.has(i) ? [k] : []));
  const near = (k) => special.some((s) => s !== k && Math.abs(s - k) * step < size * 1.05);
  list.forEach((i, k) => {
    const marked = i === pick || found.has(i);
    if (!marked && (k % every || near(k))) return;
    ctx.save();
    ctx.translate(x(k), y);
    ctx.textBaseline = "middle";
    if (flat) { ctx.textAlign = "center"; ctx.translate(0, down ? size : -size); }
    else { ctx.rotate(-Math.PI / 2); ctx.textAlign = down ? "right" : "left"; }
    write(scene, names[k], i, 0, 0, size);
    ctx.restore();
  });
}

function write(scene, text, node, x, y, size) {
  const { ctx, pick, found } = scene;
  if (found.has(node)) {
    const wide = ctx.measureText(text).width;
    const left = { left: 0, start: 0, center: -wide / 2, right: -wide, end: -wide }[ctx.textAlign];
    ctx.fillStyle = paint.mark;
    ctx.fillRect(x + left - 2, y - size * 0.6, wide + 4, size * 1.2);
  }
  ctx.fillStyle = found.has(node) ? paint["mark-ink"] : node === pick || pick < 0
    ? paint.ink : paint.soft;
  ctx.fillText(text, x, y);
}

// How tall a row of labels will be; how wide a column of them, where they never lie flat.
function labelRoom(scene, list, step, column = false) {
  const { ctx, nodes } = scene, size = Math.max(9, Math.min(13, step * 0.85));
  ctx.font = `${size}px ${FONT}`;
  let wide = 0;
  for (const i of list) wide = Math.max(wide, ctx.measureText(visible(nodes.labels[i])).width);
  return wide < step - 4 && !column ? size * 1.8 : wide + 8;
}

// Of each node, the weights between it and the chosen one; without one, all that it sends.
function heatOf(scene) {
  const { edges, pick } = scene, heat = new Map(), back = new Map();
  for (let e = 0; e < edges.count; e++) {
    const s = edges.sender[e], r = edges.receiver[e], w = edges.weight[e];
    if (pick < 0) heat.set(s, (heat.get(s) || 0) + w);
    else if (r === pick) heat.set(s, w);
    if (pick >= 0 && s === pick) back.set(r, w);
  }
  let scale = scene.heaviest;
  if (pick < 0) {
    scale = 1e-30;
    for (const w of heat.values()) scale = Math.max(scale, w);
  }
  return { heat, back, part: (w) => w / scale };
}
