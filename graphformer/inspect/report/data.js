"use strict";
// What the page holds: graphs as rows of senders, and which of their edges are seen.

const KINDS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

function unpacked({ t, b }) {
  const text = atob(b), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new KINDS[t](bytes.buffer);
}

const page = JSON.parse(document.getElementById("data").textContent);
const read = page.sequences.map((one) => one.layers.map(() => null));

// One layer of one sequence: row r of head h is the slice start[h * rows + r] to the next.
function layerOf(sequence, layer) {
  if (read[sequence][layer]) return read[sequence][layer];
  const packed = page.sequences[sequence].layers[layer], rows = packed.rows;
  const counts = unpacked(packed.counts), senders = unpacked(packed.senders);
  const steps = unpacked(packed.weights), heads = packed.low.length;
  const start = new Uint32Array(counts.length + 1), weights = new Float32Array(steps.length);
  for (let i = 0; i < counts.length; i++) start[i + 1] = start[i] + counts[i];
  for (let h = 0; h < heads; h++) {
    const low = packed.low[h], span = packed.high[h] - low, end = start[(h + 1) * rows];
    for (let e = start[h * rows]; e < end; e++) weights[e] = low + (span * steps[e]) / 65535;
  }
  return (read[sequence][layer] = { rows, start, senders, weights, total: packed.total });
}

// The nodes of a layer, senders first. In self-attention receivers are the last senders.
const sides = new Map();
function nodesOf(sequence, layer) {
  const key = sequence + "/" + layer;
  if (sides.has(key)) return sides.get(key);
  const about = page.layers[layer], nodes = page.sequences[sequence].nodes;
  const senders = nodes[about.senders], receivers = nodes[about.receivers];
  const cross = about.kind === "cross", rows = page.sequences[sequence].layers[layer].rows;
  const first = cross ? senders.count : senders.count - rows; // the node of row 0
  const names = labelsOf(senders);
  const late = cross ? labelsOf(receivers).slice(receivers.count - rows) : [];
  const found = {
    senders, receivers, cross, rows, first,
    columns: senders.count,
    labels: cross ? names.concat(late) : names,
    own: (node) => (node < senders.count ? node : node - senders.count), // its number on its side
  };
  sides.set(key, found);
  return found;
}

function labelsOf(side) {
  if (side.labels) return side.labels;
  return Array.from({ length: side.count }, (_, i) => (side.symbols || [])[i] || String(i));
}

// Edges of a head above a weight, of each row the heaviest k (0: all), with both ends in a window
// of node numbers: {sender, receiver, weight}, nodes numbered as in nodesOf.
function edgesOf(sequence, layer, head, least, top, window) {
  const { rows, start, senders, weights } = layerOf(sequence, layer);
  const { first, cross, columns } = nodesOf(sequence, layer);
  const begin = start[head * rows], most = start[(head + 1) * rows] - begin;
  const from = new Uint32Array(most), to = new Uint32Array(most), weight = new Float32Array(most);
  const [low, high] = window || [0, Infinity];
  let n = 0;
  for (let r = 0; r < rows; r++) {
    const a = start[head * rows + r], b = start[head * rows + r + 1];
    const place = cross ? r : first + r;
    if (a === b || place < low || place > high) continue;
    let bound = -Infinity, ties = 0;
    if (top && b - a > top) {
      const row = weights.slice(a, b).sort();
      bound = row[row.length - top];
      for (let i = row.length - top; i < row.length && row[i] === bound; i++) ties++;
    }
    for (let e = a; e < b; e++) {
      const w = weights[e];
      if (w <= least || w < bound || (w === bound && ties-- <= 0)) continue;
      if (senders[e] < low || senders[e] > high) continue;
      from[n] = senders[e];
      to[n] = cross ? columns + r : place;
      weight[n++] = w;
    }
  }
  return {
    count: n, total: layerOf(sequence, layer).total[head], stored: most,
    sender: from.subarray(0, n), receiver: to.subarray(0, n), weight: weight.subarray(0, n),
  };
}

// ------------------------------------------------------------------ texts

const SIGNS = { " ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥" };
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u; // controls, bidi marks, halves

function visible(label, longest = 14) {
  const signs = Array.from(label, (c) => SIGNS[c] || (HIDDEN.test(c) ? code(c) : c));
  if (signs.length > longest) signs.splice(longest - 1, Infinity, "…");
  return signs.join("") || "∅";
}

function code(c) {
  return "U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
}

function figure(x) {
  if (x === null || x === undefined) return "–";
  return Number.isInteger(x) ? String(x) : Number(x).toPrecision(3);
}

// ------------------------------------------------------------------ files

function rowsOf(edges, nodes) {
  return Array.from({ length: edges.count }, (_, e) => [
    nodes.own(edges.sender[e]), nodes.own(edges.receiver[e]), edges.weight[e].toPrecision(6),
    nodes.labels[edges.sender[e]], nodes.labels[edges.receiver[e]],
  ]);
}

function csvOf(edges, nodes, about, head, sequence) {
  const quoted = (x) => (/[",\r\n]/.test(x) ? `"${String(x).replace(/"/g, '""')}"` : String(x));
  const top = "layer,kind,head,sequence,sender,receiver,weight,sender_label,receiver_label";
  const lead = [about.name, about.kind, head ?? "", sequence];
  return [top, ...rowsOf(edges, nodes).map((row) => [...lead, ...row].map(quoted).join(","))]
    .join("\r\n") + "\r\n";
}

function graphmlOf(edges, nodes, about, head, sequence) {
  const plain = (x) => Array.from(String(x), (c) =>
    // what XML 1.0 cannot hold is written as its number
    /[^\t\n\r\u0020-\uD7FF\uE000-\uFFFD\u{10000}-\u{10FFFF}]/u.test(c) ? code(c) : c).join("")
    .replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;")
    .replace(/[\t\n\r]/g, (c) => `&#${c.charCodeAt(0)};`);
  const key = (id, kind, type) =>
    `<key id="${id}" for="${kind}" attr.name="${id}" attr.type="${type}"/>`;
  const lines = ['<?xml version="1.0" encoding="UTF-8"?>',
    '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
    key("label", "node", "string"), key("side", "node", "string"), key("weight", "edge", "double"),
    key("layer", "graph", "string"), key("head", "graph", "string"),
    key("sequence", "graph", "int"), '<graph edgedefault="directed">',
    `<data key="layer">${plain(about.name)}</data><data key="head">${head ?? "all"}</data>`,
    `<data key="sequence">${sequence}</data>`];
  nodes.labels.forEach((label, i) => {
    const side = i < nodes.columns ? about.senders : about.receivers;
    lines.push(`<node id="n${i}"><data key="label">${plain(label)}</data>` +
      `<data key="side">${plain(side)}</data></node>`);
  });
  for (let e = 0; e < edges.count; e++)
    lines.push(`<edge source="n${edges.sender[e]}" target="n${edges.receiver[e]}">` +
      `<data key="weight">${edges.weight[e].toPrecision(6)}</data></edge>`);
  return lines.concat("</graph>", "</graphml>", "").join("\n");
}
