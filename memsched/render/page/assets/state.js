/* The first part of the page's script: what is shown, numbers in words, elements, colors.

parts[i].plans[j]     orders of compiled graph i; a plan has its `ops`, `buffers`, and bytes by step
view, cursor          the steps in sight, the step that is looked at in one plan
select(plan, buffer)  one buffer at a time is highlighted, in all orders of its graph; `place`, all of one place
*/
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { graphs, parts, strings } = data;
const SHOWN_AT_FIRST = 12, ROW = 26, ROWS_AROUND = 12;
const PAD = { left: 76, right: 12, top: 20, bottom: 24 };
const byId = id => document.getElementById(id);

// ---- state: the part that is shown, steps in view, the step looked at in one plan, the selected buffer (-1: none)
// Plans of a part may be of different graphs.  The view counts steps of the last plan; `scale` makes steps of another
// plan comparable: both axes show the same share of the order.
let plans = [], bound = null, stepCount = 1, highest = 1;
let selected = -1, selectedGraph = -1, showAll = false, redrawAsked = false, charts = [];
const view = { from: 0, to: 1 }, cursor = { plan: 0, step: 0 };
for (const graph of graphs) graph.sizes = Float64Array.from(graph.buffers.size);
for (const part of parts) for (const plan of part.plans) {
  plan.ops = graphs[plan.graph].ops;
  plan.buffers = graphs[plan.graph].buffers;
  plan.count = plan.order.length;
}
const scaleOf = plan => stepCount / plans[plan].count;
const selectedIn = plan => plans[plan].graph === selectedGraph ? selected : -1;
function select(plan, buffer) {
  selected = buffer === selectedIn(plan) ? -1 : buffer;
  selectedGraph = plans[plan].graph;
}

// ---- words
function bytes(count) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit++; }
  return unit ? count.toFixed(2) + " " + units[unit] : count + " bytes";
}
const opOf = (plan, step) => plans[plan].order[step];
const kindOf = (plan, op) => strings[plans[plan].ops.kind[op]];
function text(plan, column, buffer) {
  const known = plans[plan].buffers[column];
  return known ? strings[known[buffer]] : "";
}
function maker(plan, buffer) {
  const op = plans[plan].buffers.producer[buffer];
  return op < 0 ? "input of the graph" : plans[plan].ops.name[op];
}
function lifetime(plan, buffer) {
  const first = plans[plan].first[buffer], last = plans[plan].last[buffer];
  return (first < 0 ? "start" : "step " + first) + " to " + (last >= plans[plan].count ? "end" : "step " + last);
}
function sourceOfStep(plan, step) {
  const { ops, buffers } = plans[plan];
  let largest = -1;
  for (const buffer of ops.outputs[opOf(plan, step)])
    if (largest < 0 || buffers.size[buffer] > buffers.size[largest]) largest = buffer;
  return largest < 0 ? "" : text(plan, "source", largest);
}
function liveAt(plan, step) {
  const { first, last, buffers } = plans[plan], live = [];
  for (let buffer = 0; buffer < first.length; buffer++)
    if (first[buffer] <= step && step <= last[buffer]) live.push(buffer);
  return live.sort((a, b) => buffers.size[b] - buffers.size[a] || a - b);
}
const allocated = (plan, step) =>
  plans[plan].peaks[step] - (step ? plans[plan].levels[step - 1] : plans[plan].start);
// The most that was measured while a step ran, -1 where nothing was: samples are sorted by their place.
function measuredAt(plan, step) {
  const { measured } = plans[plan];
  let most = -1;
  if (measured)
    for (let at = firstAt(measured.at, step); at < measured.at.length && measured.at[at] < step + 1; at++)
      most = Math.max(most, measured.bytes[at]);
  return most;
}
function firstAt(places, place) {
  let low = 0, high = places.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (places[middle] < place) low = middle + 1; else high = middle;
  }
  return low;
}
const freed = (plan, step) => plans[plan].peaks[step] - plans[plan].levels[step];

// ---- elements: everything that comes from a graph goes through textContent
function element(tag, content, className) {
  const made = document.createElement(tag);
  if (content !== undefined) made.textContent = content;
  if (className) made.className = className;
  return made;
}
function row(cells, tag, numbers) {
  const made = element("tr");
  cells.forEach((cell, column) => {
    const box = element(tag, cell, numbers.includes(column) ? "number" : "");
    if (tag === "th") box.scope = "col"; else box.title = cell;
    made.append(box);
  });
  return made;
}

// ---- colors: a hue for each class of buffer, a shade for each buffer, packed as the image wants them
const CLASSES = ["given", "held", "passing"];
let colors = {};
function packed(color, factor) {
  const [red, green, blue] = [1, 3, 5].map(at => Math.min(255, parseInt(color.slice(at, at + 2), 16) * factor));
  return (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
}
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const named = name => style.getPropertyValue("--" + name).trim();
  colors = { ink: named("ink"), muted: named("muted"), line: named("line"), bound: named("bound"),
    accent: named("accent"), ground: packed(named("ground"), 1), scratch: packed(named("scratch"), 1),
    chosen: packed(named("chosen"), 1), other: named("other"), measured: named("measured"),
    edge: CLASSES.map(name => packed(named(name), 0.55)),
    shades: [0.82, 1.0, 0.9, 1.1, 0.96].map(factor => CLASSES.map(name => packed(named(name), factor))) };
}
