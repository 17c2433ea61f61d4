// All heads as small matrices, in rows of a layer.

function makeOverview() {
  const scale = Math.max(1e-30, ...page.layers.flatMap((l) => l.ablation.map((x) => Math.abs(x || 0))));
  const signed = page.layers.some((l) => l.ablation.some((x) => x < 0));
  page.layers.forEach((about, layer) => {
    const box = element("div", { className: "heads" });
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `Layer ${layer}, ${about.name}`);
    const count = page.sequences[0].layers[layer].low.length;
    for (let head = 0; head < count; head++) {
      const canvas = element("canvas"), number = element("span"), note = element("span");
      const button = element("button", { type: "button", className: "head",
        tabIndex: thumbs.length ? -1 : 0 },
      canvas, element("span", {}, element("b", { textContent: headName(layer, head) })), number, note);
      const cost = about.ablation[head];
      if (page.hasAblation) button.append(...meter(cost, scale, signed));
      const index = thumbs.length;
      button.addEventListener("click", () => open(layer, head));
      button.addEventListener("keydown", (event) => walk(event, index));
      box.append(button);
      thumbs.push({ layer, head, button, canvas, number, note, cost });
    }
    const kind = about.kind === "cross" ? `, ${about.senders} → ${about.receivers}` : "";
    $("overview").append(element("h3", { textContent: `${layer} · ${about.name}${kind}` }), box);
  });
}

function meter(value, scale, signed) {
  const bar = element("i"), part = Math.abs(value || 0) / scale * (signed ? 50 : 100);
  bar.style.width = part + "%";
  bar.style.left = (signed ? (value < 0 ? 50 - part : 50) : 0) + "%";
  if (value < 0) bar.className = "below";
  const frame = element("span", { className: "meter" }, bar);
  return [element("span", { title: `ablation ${figure(value)}`,
    textContent: `abl. ${figure(value)}` }), frame];
}

// Arrow keys go from head to head; up and down to the nearest one above or below.
function walk(event, index) {
  let next = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: thumbs.length - 1 }[event.key];
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const down = event.key === "ArrowDown", here = thumbs[index].button.getBoundingClientRect();
    let best = Infinity;
    thumbs.forEach(({ button }, i) => {
      const there = button.getBoundingClientRect();
      const apart = down ? there.top - here.top : here.top - there.top;
      if (apart < 10) return;
      const cost = apart * 1000 + Math.abs(there.left - here.left);
      if (cost < best) { best = cost; next = i; }
    });
  }
  if (next === undefined || !thumbs[next]) return;
  event.preventDefault();
  focusThumb(next);
}

function focusThumb(index) {
  for (const { button } of thumbs) button.tabIndex = -1;
  thumbs[index].button.tabIndex = 0;
  thumbs[index].button.focus();
}

const CELLS = 72; // pixels of a thumbnail's longer side, at most

function drawThumb(thumb) {
  const { layer, head, canvas, button } = thumb, nodes = nodesOf(state.sequence, layer);
  const edges = seen(layer, head);
  const shrink = Math.min(1, CELLS / Math.max(nodes.columns, nodes.rows, 1));
  const wide = Math.max(1, Math.round(nodes.columns * shrink));
  const tall = Math.max(1, Math.round(nodes.rows * shrink));
  const cells = new Float32Array(wide * tall);
  for (let e = 0; e < edges.count; e++) {
    const row = edges.receiver[e] - (nodes.cross ? nodes.columns : nodes.first);
    const at = Math.floor(row * tall / nodes.rows) * wide +
      Math.floor(edges.sender[e] * wide / nodes.columns);
    if (edges.weight[e] > cells[at]) cells[at] = edges.weight[e];
  }
  Object.assign(canvas, { width: wide, height: tall });
  const ctx = canvas.getContext("2d"), image = ctx.createImageData(wide, tall);
  const pixels = new Uint32Array(image.data.buffer), scale = 1 / (most || 1);
  for (let i = 0; i < cells.length; i++)
    if (cells[i] > 0) pixels[i] = paint.words[Math.min(255, Math.round(255 * Math.sqrt(cells[i] * scale)))];
  ctx.putImageData(image, 0, 0);
  const about = page.layers[layer], value = (about.measures[head] || {})[state.measure];
  thumb.number.textContent = said(edges.count, "edge");
  thumb.note.textContent = state.measure ? `${state.measure} ${figure(value)}` : "";
  thumb.note.hidden = !state.measure;
  const cost = page.hasAblation ? `, ablation ${figure(thumb.cost)}` : "";
  button.setAttribute("aria-label", `Layer ${layer}, ${headName(layer, head)}, ` +
    `${thumb.number.textContent}${state.measure ? ", " + thumb.note.textContent : ""}${cost}`);
}

// In pieces, so that the page answers meanwhile.
let drawing = 0;
function drawOverview() {
  cancelAnimationFrame(drawing);
  readColours(document.documentElement);
  let next = 0;
  const some = () => {
    const until = performance.now() + 80;
    while (next < thumbs.length && performance.now() < until) drawThumb(thumbs[next++]);
    if (next < thumbs.length) drawing = requestAnimationFrame(some);
    else if (!window.graphformer.ready) window.graphformer.ready = performance.now();
  };
  some();
}
