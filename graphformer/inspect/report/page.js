// The page: controls and one opened head.

const $ = (id) => document.getElementById(id);
const state = {
  sequence: 0, least: -Infinity, top: 0, found: new Set(), query: "", measure: "",
  open: null, // {layer, head}
  view: "", pick: -1, pair: null, window: [0, Infinity], turn: [0, 0],
};
const range = page.sequences.flatMap((one) => one.layers.flatMap((l) => l.high));
const most = Math.max(0, ...range);
const thumbs = []; // {layer, head, button, canvas, count, note}
let scene = null;

function element(name, settings = {}, ...children) {
  const made = Object.assign(document.createElement(name), settings);
  made.append(...children);
  return made;
}

const headNumber = (layer, head) => page.layers[layer].heads[head]; // undefined: merged
const headName = (layer, head) => {
  const number = headNumber(layer, head);
  return number === undefined ? "all heads" : `head ${number}`;
};
const seen = (layer, head, window) =>
  edgesOf(state.sequence, layer, head, state.least, state.top, window);
const comma = new Intl.NumberFormat("en").format;
const said = (n, noun) => `${comma(n)} ${noun}` +
  (n === 1 ? "" : /(ch|s|x)$/.test(noun) ? "es" : "s");

// ------------------------------------------------------------------ one head

function open(layer, head) {
  const again = state.open !== null, nodes = nodesOf(state.sequence, layer);
  state.open = { layer, head };
  state.pair = null;
  if (state.pick >= nodes.labels.length) state.pick = -1;
  const fitting = Object.keys(VIEWS).filter((key) => VIEWS[key].fits(nodes));
  if (!fitting.includes(state.view))
    state.view = ["patches", "molecule", "places", "arcs", "rows"].find((k) => fitting.includes(k));
  $("views").replaceChildren(...fitting.map((key) => {
    const button = element("button", { type: "button", textContent: VIEWS[key].name });
    button.dataset.view = key;
    button.addEventListener("click", () => { state.view = key; redraw(); });
    return button;
  }));
  $("overview").hidden = true;
  $("detail").hidden = false;
  const about = page.layers[layer];
  $("name").textContent = `Layer ${layer}, ${headName(layer, head)} · ${about.name}`;
  const numbers = Object.entries(about.measures[head] || {});
  if (page.hasAblation) numbers.push(["ablation", about.ablation[head]]);
  $("numbers").replaceChildren(...numbers.map(([name, value]) => element("div", {},
    element("dt", { textContent: name }), element("dd", { textContent: figure(value) }))));
  findLabels();
  redraw();
  if (!again) { $("name").focus(); scrollTo(0, 0); }
}

function close() {
  if (!state.open) return;
  const { layer, head } = state.open;
  state.open = null;
  $("detail").hidden = true;
  $("overview").hidden = false;
  findLabels();
  drawOverview();
  focusThumb(thumbs.findIndex((t) => t.layer === layer && t.head === head));
}

function turnTo(by) {
  const index = thumbs.findIndex((t) => t.layer === state.open.layer && t.head === state.open.head);
  const next = thumbs[(index + by + thumbs.length) % thumbs.length];
  open(next.layer, next.head);
}

function visibleEdges() {
  return seen(state.open.layer, state.open.head, state.window);
}

let planned = 0;
function redraw() {
  cancelAnimationFrame(planned);
  planned = requestAnimationFrame(state.open ? drawDetail : drawOverview);
}

function drawDetail() {
  if (!state.open) return;
  const { layer, head } = state.open, nodes = nodesOf(state.sequence, layer);
  const view = VIEWS[state.view], canvas = $("canvas"), edges = visibleEdges();
  for (const button of $("views").children)
    button.setAttribute("aria-pressed", String(button.dataset.view === state.view));
  $("stage").className = state.view === "molecule" ? "light" : "";
  readColours($("stage"));
  const width = Math.max($("stage").clientWidth, 120), ratio = devicePixelRatio || 1;
  const ctx = canvas.getContext("2d");
  scene = makeScene(ctx, width, edges, nodes, state);
  scene.height = Math.ceil(view.layout(scene));
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(scene.height * ratio);
  canvas.style.height = scene.height + "px";
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.fillStyle = paint.paper;
  ctx.fillRect(0, 0, width, scene.height);
  view.draw(scene);
  const left = edges.total - edges.stored;
  $("count").textContent = `${said(edges.count, "edge")} of ${comma(edges.total)}` +
    (left ? `; the page holds the ${comma(edges.stored)} heaviest ` +
      `(max_edges=${page.maxEdges}), ${comma(left)} were left out` : "") +
    (edges.total ? "" : "; this head has no edges");
  $("count").dataset.edges = edges.count;
  const side = nodes.senders;
  $("legend").textContent = [view.legend, side.text, side.note].filter(Boolean).join(" · ");
  const all = nodes.cross ? Math.max(nodes.columns, nodes.rows) : nodes.columns;
  $("from").value = state.window[0];
  $("to").value = Math.min(state.window[1], all - 1);
  $("from").max = $("to").max = all - 1;
  $("window-box").hidden = ["patches", "places", "molecule"].includes(state.view);
  describe();
}

// What is known of the chosen node, in words.
function describe() {
  const { nodes, edges, pick, pair } = scene, lines = [];
  const name = (i) => `${nodes.own(i)} “${visible(nodes.labels[i], 40)}”`;
  if (pick >= 0) {
    const list = (mine, other, verb) => {
      const found = [];
      for (let e = 0; e < edges.count; e++)
        if (mine[e] === pick) found.push([edges.weight[e], other[e]]);
      if (!found.length) return;
      found.sort((a, b) => b[0] - a[0]);
      lines.push(`${verb} ${found.length}: ` +
        found.slice(0, 5).map(([w, i]) => `${name(i)} ${figure(w)}`).join(", ") +
        (found.length > 5 ? ", …" : ""));
    };
    list(edges.receiver, edges.sender, "attends to");
    list(edges.sender, edges.receiver, "attended to by");
    lines.unshift(name(pick) + (lines.length ? "" : ": no edges seen"));
  }
  if (pair) {
    let w = null;
    for (let e = 0; e < edges.count; e++)
      if (edges.sender[e] === pair[0] && edges.receiver[e] === pair[1]) w = edges.weight[e];
    lines.unshift(`${name(pair[1])} ← ${name(pair[0])}: ${w === null ? "no edge" : figure(w)}`);
  }
  $("readout").textContent = lines.join("\n");
  $("canvas").setAttribute("aria-label", `${VIEWS[state.view].name} of ${$("name").textContent}. ` +
    "Arrow keys choose a node, Page Up and Page Down a head, Escape goes back.");
}

function point(event) {
  if (!scene || !state.open) return;
  const box = $("canvas").getBoundingClientRect();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  const hit = VIEWS[state.view].hit(scene, x, y), tip = $("tip");
  const node = hit ? hit.node : -1, pair = (hit && hit.pair) || null;
  if (node !== state.pick || String(pair) !== String(state.pair)) {
    Object.assign(state, { pick: node, pair });
    drawDetail();
  }
  tip.hidden = node < 0;
  if (node < 0) return;
  tip.textContent = $("readout").textContent;
  const wide = tip.offsetWidth, tall = tip.offsetHeight;
  tip.style.left = Math.max(0, Math.min(x + 14, box.width - wide)) + "px";
  tip.style.top = (y + 18 + tall > box.height ? Math.max(0, y - tall - 10) : y + 18) + "px";
}

function keys(event) {
  if (event.key === "PageDown" || event.key === "PageUp") {
    event.preventDefault();
    return turnTo(event.key === "PageDown" ? 1 : -1);
  }
  const list = scene.nodes.cross ? [...scene.senders, ...scene.receivers] : scene.senders;
  if (!list.length) return;
  const columns = state.view === "patches" ? scene.nodes.senders.grid[1] : 1;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  const ends = { Home: 0, End: list.length - 1 }[event.key];
  if (step === undefined && ends === undefined) return;
  event.preventDefault();
  const here = list.indexOf(state.pick);
  const next = ends !== undefined ? ends : here < 0 ? 0 : here + step;
  state.pick = list[Math.max(0, Math.min(list.length - 1, next))];
  state.pair = null;
  $("tip").hidden = true;
  drawDetail();
}

// ------------------------------------------------------------------ controls

function findLabels() {
  const query = state.query.toLowerCase(), found = new Set();
  const layer = state.open ? state.open.layer : 0;
  if (query) nodesOf(state.sequence, layer).labels.forEach((label, i) => {
    if (label.toLowerCase().includes(query) || visible(label, 1e9).toLowerCase().includes(query))
      found.add(i);
  });
  state.found = found;
  $("matches").textContent = query ? said(found.size, "node") : "";
}

function nextFound() {
  const list = [...state.found];
  if (!list.length) return;
  state.pick = list.find((i) => i > state.pick) ?? list[0];
  state.pair = null;
  if (!state.open) return open(thumbs[0].layer, thumbs[0].head);
  drawDetail();
}

function save(name, blob) {
  const { layer, head } = state.open, url = URL.createObjectURL(blob);
  const number = headNumber(layer, head);
  const link = element("a", { href: url, download:
    `layer${layer}_${number === undefined ? "heads" : "head" + number}_${state.sequence}.${name}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function asFile(form) {
  const { layer, head } = state.open, number = headNumber(layer, head);
  return form(visibleEdges(), nodesOf(state.sequence, layer), page.layers[layer], number,
    state.sequence);
}

function start() {
  document.title = $("title").textContent = page.title;
  const kinds = Object.values(page.sequences[0].nodes).map((n) => said(n.count, n.kind)).join(", ");
  $("about").textContent = [page.model !== page.title && page.model, said(page.layers.length, "layer"),
    said(page.sequences.length, "sequence"), kinds, page.cut && `kept: ${page.cut}`,
    page.maxEdges && `at most ${comma(page.maxEdges)} edges a head (max_edges)`]
    .filter(Boolean).join(" · ");
  page.sequences.forEach((one, i) => {
    const side = Object.values(one.nodes)[0];
    const text = side.text || labelsOf(side).slice(0, 12).join(side.kind === "token" ? "" : " ");
    $("sequence").append(element("option", { value: i, textContent: `${i}: ${visible(text, 32)}` }));
  });
  $("sequence-box").hidden = page.sequences.length < 2;
  const names = new Set(page.layers.flatMap((l) => l.measures.flatMap((m) => Object.keys(m || {}))));
  for (const name of ["", ...names])
    $("measure").append(element("option", { value: name, textContent: name || "none" }));
  $("measure-box").hidden = !names.size;
  for (const one of page.sequences)
    for (const side of Object.values(one.nodes))
      if (side.svg) {
        side.image = new Image();
        side.image.onload = redraw;
        side.image.src = "data:image/svg+xml;base64," + side.svg;
      }
  makeOverview();
  const on = (id, event, act) => $(id).addEventListener(event, act);
  on("controls", "submit", (event) => event.preventDefault());
  const slide = () => {
    const part = $("least").value / 1000; // finer where weights are small
    state.least = part ? most * part ** 2 : -Infinity;
    $("least-value").textContent = part ? figure(state.least) : "all";
    redraw();
  };
  on("least", "input", slide);
  on("top", "input", () => { state.top = Math.max(0, Math.floor($("top").value || 0)); redraw(); });
  on("search", "input", () => { state.query = $("search").value; findLabels(); redraw(); });
  on("search", "keydown", (event) => { if (event.key === "Enter") nextFound(); });
  on("measure", "change", () => { state.measure = $("measure").value; redraw(); });
  on("sequence", "change", () => {
    Object.assign(state, { sequence: Number($("sequence").value), pick: -1, pair: null,
      window: [0, Infinity] });
    if (state.open) open(state.open.layer, state.open.head);
    else { findLabels(); redraw(); }
  });
  on("close", "click", close);
  on("before", "click", () => turnTo(-1));
  on("after", "click", () => turnTo(1));
  const frame = () => {
    const low = Math.max(0, Math.floor($("from").value || 0));
    state.window = [low, Math.max(low, Math.floor($("to").value || 0))];
    redraw();
  };
  on("from", "change", frame);
  on("to", "change", frame);
  on("whole", "click", () => { state.window = [0, Infinity]; redraw(); });
  on("png", "click", () => $("canvas").toBlob((blob) => save("png", blob), "image/png"));
  on("csv", "click", () => save("csv", new Blob([asFile(csvOf)], { type: "text/csv" })));
  on("graphml", "click", () =>
    save("graphml", new Blob([asFile(graphmlOf)], { type: "application/graphml+xml" })));
  let grip = null;
  on("canvas", "pointerdown", (event) => {
    grip = state.view === "places" ? [event.clientX, event.clientY, ...state.turn] : null;
    point(event);
  });
  on("canvas", "pointermove", (event) => {
    if (!grip || !event.buttons) return point(event);
    state.turn = [grip[2] + (event.clientX - grip[0]) / 150,
      Math.max(-1.6, Math.min(1.6, grip[3] + (event.clientY - grip[1]) / 150))];
    redraw();
  });
  on("canvas", "pointerleave", () => { $("tip").hidden = true; });
  on("canvas", "keydown", keys);
  addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  slide();
}

window.graphformer = {
  state, page, open, close, csv: () => asFile(csvOf), graphml: () => asFile(graphmlOf), ready: 0,
};
start();
