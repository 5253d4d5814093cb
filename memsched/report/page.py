"""What the HTML report is made of besides its data: style sheet, script, and the frame that holds them.

The script reads one JSON object (`memsched.report.html`), and writes names only as text, never as markup.  It draws
each order on a canvas, one column of pixels at a time:

    column -> the steps that fall into it -> the one with the largest peak -> the buffers live there, stacked

so that a peak is never lost between two columns, and a redraw costs columns x buffers in view, whatever the zoom.
Pixels are written into one image rather than drawn as shapes: 5,000 ops pan without visible delay.
"""

from __future__ import annotations

__all__ = ["FRAME", "SCRIPT", "STYLE"]

FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src '{script_hash}'; \
style-src '{style_hash}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="muted">{subtitle}</p>
</header>
<main>
<dl class="cards">{cards}</dl>
<section aria-labelledby="memory-heading">
<h2 id="memory-heading">Memory over time</h2>
<p class="legend" aria-hidden="true"><span class="swatch given"></span>inputs, freed after their last reader
<span class="swatch held"></span>kept: outputs, and inputs that the caller holds
<span class="swatch passing"></span>temporary <span class="swatch scratch"></span>workspace
<span class="swatch chosen"></span>selected buffer <span class="swatch bound"></span>lower bound</p>
<div id="charts"></div>
<p class="muted">Wheel or <kbd>+</kbd> <kbd>−</kbd>: zoom. Drag or <kbd>Shift</kbd>+<kbd>←</kbd> <kbd>→</kbd>: pan.
<kbd>←</kbd> <kbd>→</kbd>: step. <kbd>↑</kbd> <kbd>↓</kbd>: next buffer of the step. <kbd>P</kbd>: peak.
<kbd>0</kbd> or double click: everything. Where several steps share a column of pixels, the highest is drawn.</p>
<noscript><p>The chart and the table of the order need JavaScript; what stands above and below does not.</p></noscript>
</section>
<section aria-labelledby="step-heading">
<h2 id="step-heading">At one step</h2>
<p id="step-words" aria-live="polite"></p>
<div class="scroll"><table id="live"></table></div>
<button id="more" type="button" hidden>Show all</button>
</section>
<section aria-labelledby="order-heading">
<h2 id="order-heading">The order</h2>
<p class="controls"><label>Plan <select id="which"></select></label>
<label>Find <input id="find" type="search" placeholder="op, kind or source line"></label>
<span id="found" class="muted" aria-live="polite"></span></p>
<div id="order" class="scroll" tabindex="0" role="region" aria-label="Table of the order">
<table><thead></thead><tbody></tbody></table></div>
</section>
<section aria-labelledby="proof-heading">
<h2 id="proof-heading">What is proved</h2>
{proof}
</section>
{refusals}
</main>
<div id="tip" role="presentation" hidden></div>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --panel: #f4f5f7; --ink: #1b1f24; --muted: #5b6470;
  --line: #d5d9df; --accent: #0b62c4; --given: #4f83b8; --held: #4a9a72; --passing: #d08a3c; --scratch: #8c8f96;
  --chosen: #c2187a; --bound: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --panel: #1d2127; --ink: #e6e9ee; --muted: #9aa4b1;
  --line: #353b45; --accent: #6fb1ff; --given: #5b8fc4; --held: #4f9d77; --passing: #c98640; --scratch: #747a84;
  --chosen: #ff5cb8; --bound: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: 16px 24px 48px; background: var(--ground); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 20px; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 15px; margin: 24px 0 6px; }
.muted { color: var(--muted); margin: 4px 0; } p { margin: 4px 0; max-width: 120ch; overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0 0; }
.cards div { background: var(--panel); border-radius: 8px; padding: 8px 14px; min-width: 120px; }
dt { color: var(--muted); font-size: 12px; } dd { margin: 0; font-size: 18px; font-variant-numeric: tabular-nums; }
dd small { font-size: 12px; color: var(--muted); display: block; }
.legend { color: var(--muted); font-size: 12px; max-width: none; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 5px 0 14px;
  vertical-align: -1px; }
.legend .swatch:first-child { margin-left: 0; }
.given { background: var(--given); } .held { background: var(--held); } .passing { background: var(--passing); }
.scratch { background: var(--scratch); } .chosen { background: var(--chosen); }
.bound { height: 0; border-top: 2px dashed var(--bound); width: 16px; border-radius: 0; vertical-align: 4px; }
figure { margin: 8px 0 12px; } figcaption { font-weight: 600; }
canvas { display: block; width: 100%; height: 260px; cursor: crosshair; touch-action: pan-y; border-radius: 4px; }
canvas:focus-visible, #order:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
kbd { border: 1px solid var(--line); border-radius: 3px; padding: 0 4px; font: 12px ui-monospace, monospace; }
.scroll { overflow: auto; border: 1px solid var(--line); border-radius: 6px; } #order { height: 420px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 2px 10px; height: 26px; line-height: 20px; white-space: nowrap;
  max-width: 46ch; overflow: hidden; text-overflow: ellipsis; }
th { position: sticky; top: 0; background: var(--panel); color: var(--muted); font-weight: 600; font-size: 12px; }
td.number, th.number { text-align: right; } td { border-top: 1px solid var(--line); }
tr.here td { background: color-mix(in srgb, var(--accent) 18%, var(--ground)); }
tbody tr { cursor: pointer; } tr.spacer td { padding: 0; border: 0; }
button, select, input { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; padding: 3px 8px; } button { margin-top: 8px; cursor: pointer; }
.controls { display: flex; flex-wrap: wrap; gap: 16px; align-items: center; margin-bottom: 8px; }
#find { width: 260px; }
#tip { position: fixed; z-index: 2; max-width: 560px; background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; padding: 6px 10px; pointer-events: none; box-shadow: 0 4px 16px #0004; overflow-wrap: anywhere; }
#tip[hidden] { display: none; }
"""

SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { ops, buffers, plans, bound, strings } = data;
const stepCount = plans[0].order.length;
const highest = Math.max(bound || 0, ...plans.map(plan => plan.peak)) || 1;
const SHOWN_AT_FIRST = 12, ROW = 26, ROWS_AROUND = 12;
const PAD = { left: 76, right: 12, top: 20, bottom: 24 };
const byId = id => document.getElementById(id);

// ---- state: steps in view, the step looked at in one plan, the selected buffer (-1: none)
const view = { from: 0, to: stepCount };
const cursor = { plan: plans.length - 1, step: plans[plans.length - 1].peakStep };
let selected = -1, showAll = false, redrawAsked = false, charts = [];

// ---- words
function bytes(count) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit++; }
  return unit ? count.toFixed(2) + " " + units[unit] : count + " bytes";
}
const opOf = (plan, step) => plans[plan].order[step];
const kindOf = op => strings[ops.kind[op]];
const text = (column, buffer) => buffers[column] ? strings[buffers[column][buffer]] : "";
function maker(buffer) {
  const op = buffers.producer[buffer];
  return op < 0 ? "input of the graph" : ops.name[op];
}
function lifetime(plan, buffer) {
  const first = plans[plan].first[buffer], last = plans[plan].last[buffer];
  return (first < 0 ? "start" : "step " + first) + " to " + (last >= stepCount ? "end" : "step " + last);
}
function sourceOfStep(plan, step) {
  let largest = -1;
  for (const buffer of ops.outputs[opOf(plan, step)])
    if (largest < 0 || buffers.size[buffer] > buffers.size[largest]) largest = buffer;
  return largest < 0 ? "" : text("source", largest);
}
function liveAt(plan, step) {
  const { first, last } = plans[plan], live = [];
  for (let buffer = 0; buffer < first.length; buffer++)
    if (first[buffer] <= step && step <= last[buffer]) live.push(buffer);
  return live.sort((a, b) => buffers.size[b] - buffers.size[a] || a - b);
}
const allocated = (plan, step) =>
  plans[plan].peaks[step] - (step ? plans[plan].levels[step - 1] : plans[plan].start);
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

// ---- colours: a hue for each class of buffer, a shade for each buffer, packed as the image wants them
const CLASSES = ["given", "held", "passing"];
let colours = {};
function packed(colour, factor) {
  const [red, green, blue] = [1, 3, 5].map(at => Math.min(255, parseInt(colour.slice(at, at + 2), 16) * factor));
  return (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
}
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const named = name => style.getPropertyValue("--" + name).trim();
  const shades = [0.82, 1.0, 0.9, 1.1, 0.96].map(factor => CLASSES.map(name => packed(named(name), factor)));
  colours = { ink: named("ink"), muted: named("muted"), line: named("line"), bound: named("bound"),
    accent: named("accent"), ground: packed(named("ground"), 1), scratch: packed(named("scratch"), 1),
    chosen: packed(named("chosen"), 1),
    fill: buffers.class.map((kind, buffer) => shades[buffer % shades.length][kind]),
    edge: CLASSES.map(name => packed(named(name), 0.55)) };
}

// ---- a chart
// From the bottom: inputs, kept buffers, temporaries; within each the ones that are born first, so bands stay put.
function stackOrder(plan) {
  const { first } = plans[plan];
  return Int32Array.from(first.keys()).sort((a, b) =>
    buffers.class[a] - buffers.class[b] || first[a] - first[b] || a - b);
}
class Chart {
  constructor(plan) {
    this.plan = plan;
    this.stack = stackOrder(plan);
    this.canvas = element("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "memory chart");
    this.canvas.setAttribute("aria-label", plans[plan].title + ": peak " + bytes(plans[plan].peak) + " at step " +
      plans[plan].peakStep + ". Arrow keys move, plus and minus zoom.");
    this.canvas.setAttribute("aria-describedby", "step-words");
    const figure = element("figure");
    figure.append(element("figcaption", plans[plan].title), this.canvas);
    byId("charts").append(figure);
    this.listen();
  }
  get width() { return Math.max(1, this.canvas.clientWidth - PAD.left - PAD.right); }
  get height() { return Math.max(1, this.canvas.clientHeight - PAD.top - PAD.bottom); }
  x(step) { return PAD.left + (step - view.from) / (view.to - view.from) * this.width; }
  y(count) { return PAD.top + this.height * (1 - count / (highest * 1.04)); }
  stepAt(x) {
    const step = Math.floor(view.from + (x - PAD.left) / this.width * (view.to - view.from));
    return Math.max(0, Math.min(stepCount - 1, step));
  }
  // The step that is drawn in the pixels [x, x + width): the highest of those that fall into them.
  highestStep(x, width) {
    const { peaks } = plans[this.plan], scale = (view.to - view.from) / this.width;
    const begin = Math.max(0, Math.floor(view.from + (x - PAD.left) * scale));
    const end = Math.min(stepCount, Math.max(begin + 1, Math.ceil(view.from + (x - PAD.left + width) * scale)));
    let best = Math.min(begin, stepCount - 1);
    for (let step = begin; step < end; step++) if (peaks[step] > peaks[best]) best = step;
    return best;
  }
  inView() {
    const { first, last } = plans[this.plan];
    return this.stack.filter(buffer => first[buffer] <= view.to && last[buffer] >= view.from && buffers.size[buffer]);
  }
  bufferAt(x, y) {
    const { first, last } = plans[this.plan], step = this.highestStep(x, 1);
    const target = (PAD.top + this.height - y) / this.height * highest * 1.04;
    let below = 0;
    for (const buffer of this.inView()) {
      if (first[buffer] > step || step > last[buffer]) continue;
      below += buffers.size[buffer];
      if (target >= 0 && target < below) return buffer;
    }
    return -1;
  }
  draw() {
    const ratio = window.devicePixelRatio || 1, { canvas } = this;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    const pen = canvas.getContext("2d");
    this.drawBands(pen, ratio);
    pen.scale(ratio, ratio);
    pen.font = "12px system-ui, sans-serif";
    this.drawAxes(pen);
    this.drawBound(pen);
    this.drawCursor(pen);
    this.drawPeak(pen);
  }
  drawBands(pen, ratio) {
    const width = Math.round(this.width * ratio), height = Math.round(this.height * ratio);
    const image = pen.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
    pixels.fill(colours.ground);
    const candidates = this.inView(), { first, last, peaks } = plans[this.plan];
    const scale = height / (highest * 1.04);
    let drawn = -1;
    for (let column = 0; column < width; column++) {
      const step = this.highestStep(PAD.left + column / ratio, 1 / ratio);
      if (step === drawn) {
        for (let at = column; at < pixels.length; at += width) pixels[at] = pixels[at - 1];
        continue;
      }
      drawn = step;
      let total = 0, line = height;
      const paint = (size, colour, edge) => {
        total += size;
        const top = Math.round(height - total * scale);
        for (let at = line - 1; at >= top; at--) pixels[at * width + column] = colour;
        if (line - top >= 4) pixels[top * width + column] = edge;
        line = Math.min(line, top);
      };
      for (const buffer of candidates) {
        if (first[buffer] > step || step > last[buffer]) continue;
        paint(buffers.size[buffer], buffer === selected ? colours.chosen : colours.fill[buffer],
          colours.edge[buffers.class[buffer]]);
      }
      paint(peaks[step] - total, colours.scratch, colours.scratch);
    }
    pen.putImageData(image, Math.round(PAD.left * ratio), Math.round(PAD.top * ratio));
  }
  drawAxes(pen) {
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    let tick = 2 ** Math.floor(Math.log2(highest / 4));
    if (highest / tick > 6) tick *= 2;
    for (let count = 0; count <= highest * 1.04; count += tick) {
      pen.globalAlpha = 0.5;
      pen.fillStyle = colours.line;
      pen.fillRect(PAD.left, Math.round(this.y(count)), this.width, 1);
      pen.globalAlpha = 1;
      pen.fillStyle = colours.muted;
      pen.fillText(bytes(count), PAD.left - 8, this.y(count));
    }
    pen.textAlign = "center";
    pen.textBaseline = "top";
    const steps = view.to - view.from, unit = 10 ** Math.floor(Math.log10(steps / 4));
    const every = Math.max(1, Math.round([1, 2, 5].map(n => n * unit).find(gap => steps / gap <= 12) || 10 * unit));
    for (let step = Math.ceil(view.from / every) * every; step < view.to; step += every)
      pen.fillText(step, Math.min(this.x(step + 0.5), PAD.left + this.width - 12), PAD.top + this.height + 6);
  }
  drawBound(pen) {
    if (!bound) return;
    pen.strokeStyle = colours.bound;
    pen.setLineDash([6, 4]);
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(PAD.left, this.y(bound));
    pen.lineTo(PAD.left + this.width, this.y(bound));
    pen.stroke();
    pen.setLineDash([]);
  }
  drawCursor(pen) {
    if (cursor.plan !== this.plan || cursor.step + 1 < view.from || cursor.step > view.to) return;
    const left = Math.max(PAD.left, this.x(cursor.step));
    const right = Math.min(PAD.left + this.width, this.x(cursor.step + 1));
    pen.fillStyle = colours.accent;
    pen.globalAlpha = 0.25;
    pen.fillRect(left, PAD.top, Math.max(1, right - left), this.height);
    pen.globalAlpha = 1;
    pen.fillRect((left + right) / 2 - 0.5, PAD.top, 1, this.height);
  }
  drawPeak(pen) {
    const { peak, peakStep } = plans[this.plan], x = this.x(peakStep + 0.5), y = this.y(peak);
    if (x < PAD.left || x > PAD.left + this.width) return;
    pen.fillStyle = colours.ink;
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(x - 5, y - 8);
    pen.lineTo(x + 5, y - 8);
    pen.fill();
    const label = "peak " + bytes(peak) + ", step " + peakStep, side = x > PAD.left + this.width / 2 ? -1 : 1;
    pen.textAlign = side < 0 ? "right" : "left";
    pen.textBaseline = "bottom";
    pen.fillText(label, x + side * 9, y - 1);
  }
  listen() {
    const { canvas } = this;
    const place = event => [event.clientX - canvas.getBoundingClientRect().left,
      event.clientY - canvas.getBoundingClientRect().top];
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      const [x] = place(event);
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))
        pan((event.deltaX || event.deltaY) / this.width * (view.to - view.from));
      else zoom(Math.exp(event.deltaY * 0.0015), view.from + (x - PAD.left) / this.width * (view.to - view.from));
    }, { passive: false });
    canvas.addEventListener("dblclick", () => look(0, stepCount));
    canvas.addEventListener("keydown", event => { if (onKey(event, this.plan)) event.preventDefault(); });
    canvas.addEventListener("pointerdown", event => {
      canvas.setPointerCapture(event.pointerId);
      this.drag = { x: event.clientX, from: view.from, moved: false };
    });
    canvas.addEventListener("pointermove", event => {
      if (this.drag) this.onDrag(event); else this.onHover(...place(event), event);
    });
    canvas.addEventListener("pointercancel", () => { this.drag = null; });
    canvas.addEventListener("pointerup", event => {
      if (this.drag && !this.drag.moved) {
        const [x, y] = place(event), buffer = this.bufferAt(x, y);
        selected = buffer === selected ? -1 : buffer;
        moveTo(this.plan, this.highestStep(x, 1));
      }
      this.drag = null;
    });
    canvas.addEventListener("pointerleave", () => { byId("tip").hidden = true; });
  }
  onDrag(event) {
    const moved = event.clientX - this.drag.x;
    if (Math.abs(moved) < 4 && !this.drag.moved) return;
    this.drag.moved = true;
    byId("tip").hidden = true;
    pan(this.drag.from - moved / this.width * (view.to - view.from) - view.from);
  }
  onHover(x, y, event) {
    const tip = byId("tip");
    tip.hidden = x < PAD.left || x > PAD.left + this.width || y < PAD.top || y > PAD.top + this.height;
    if (tip.hidden) return;
    const step = this.highestStep(x, 1), buffer = this.bufferAt(x, y);
    const lines = ["step " + step + ": " + ops.name[opOf(this.plan, step)] + ", " +
      bytes(plans[this.plan].peaks[step]) + " live"];
    if (buffer >= 0) lines.unshift(buffers.name[buffer] + "  " + bytes(buffers.size[buffer]),
      ...["type", "source", "operator", "module"].map(column => text(column, buffer)).filter(Boolean),
      "from " + maker(buffer) + ", live " + lifetime(this.plan, buffer));
    tip.replaceChildren(...lines.map((line, at) => element(at || buffer < 0 ? "div" : "strong", line)));
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)) + "px";
  }
}

// ---- moving about
function look(from, to) {
  const width = Math.min(stepCount, Math.max(Math.min(8, stepCount), to - from));
  view.from = Math.max(0, Math.min(from, stepCount - width));
  view.to = view.from + width;
  redraw();
}
const pan = steps => look(view.from + steps, view.to + steps);
function zoom(factor, centre) {
  const width = Math.min(stepCount, Math.max(Math.min(8, stepCount), (view.to - view.from) * factor));
  const share = (centre - view.from) / (view.to - view.from);
  look(centre - share * width, centre - share * width + width);
}
function moveTo(plan, step) {
  cursor.plan = plan;
  cursor.step = Math.max(0, Math.min(stepCount - 1, step));
  const width = view.to - view.from;
  if (cursor.step < view.from || cursor.step >= view.to) look(cursor.step - width / 2, cursor.step + width / 2);
  if (byId("which").value !== String(plan)) { byId("which").value = plan; fillOrder(); }
  scrollToCursor();
  showStep();
  redraw();
}
function selectNext(plan, by) {
  const live = liveAt(plan, cursor.step), at = live.indexOf(selected);
  if (live.length) selected = live[at < 0 ? 0 : (at + by + live.length) % live.length];
  moveTo(plan, cursor.step);
}
function onKey(event, plan) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const width = view.to - view.from, middle = cursor.step + 0.5;
  const actions = {
    ArrowLeft: () => event.shiftKey ? pan(-width / 8) : moveTo(plan, cursor.step - 1),
    ArrowRight: () => event.shiftKey ? pan(width / 8) : moveTo(plan, cursor.step + 1),
    PageUp: () => moveTo(plan, cursor.step - Math.ceil(width / 10)),
    PageDown: () => moveTo(plan, cursor.step + Math.ceil(width / 10)),
    Home: () => moveTo(plan, 0), End: () => moveTo(plan, stepCount - 1),
    ArrowDown: () => selectNext(plan, 1), ArrowUp: () => selectNext(plan, -1),
    "+": () => zoom(0.7, middle), "=": () => zoom(0.7, middle), "-": () => zoom(1 / 0.7, middle),
    "0": () => look(0, stepCount), p: () => moveTo(plan, plans[plan].peakStep),
    P: () => moveTo(plan, plans[plan].peakStep), Escape: () => { selected = -1; moveTo(plan, cursor.step); },
  };
  if (!Object.hasOwn(actions, event.key)) return false;
  actions[event.key]();
  return true;
}

// ---- the step that is looked at
function showStep() {
  const { plan, step } = cursor, op = opOf(plan, step), live = liveAt(plan, step), peak = plans[plan].peaks[step];
  const scratch = ops.workspace[op];
  byId("step-words").textContent = plans[plan].title + ", step " + step + " of " + stepCount + ": " + ops.name[op] +
    (kindOf(op) ? " (" + kindOf(op) + ")" : "") + ". " + bytes(peak) + " live in " + live.length + " buffers" +
    (scratch ? " and " + bytes(scratch) + " of workspace" : "") +
    (peak === plans[plan].peak ? "; this is the peak." : ".") +
    (selected >= 0 ? " Selected: " + buffers.name[selected] + ", " + bytes(buffers.size[selected]) + "." : "");
  const known = ["type", "source", "module"].filter(column => buffers[column]);
  const titles = known.map(column => column === "source" ? "source line" : column);
  const head = ["buffer", "bytes", "share", ...titles, "live", "made by"];
  const rows = (showAll ? live : live.slice(0, SHOWN_AT_FIRST)).map(buffer => {
    const made = row([buffers.name[buffer], bytes(buffers.size[buffer]),
      (100 * buffers.size[buffer] / (peak || 1)).toFixed(1) + " %", ...known.map(column => text(column, buffer)),
      lifetime(plan, buffer), maker(buffer)], "td", [1, 2]);
    made.addEventListener("click", () => { selected = buffer === selected ? -1 : buffer; moveTo(plan, step); });
    if (buffer === selected) made.className = "here";
    return made;
  });
  const top = element("thead"), body = element("tbody");
  top.append(row(head, "th", [1, 2]));
  body.append(...rows);
  byId("live").replaceChildren(top, body);
  byId("more").hidden = live.length <= SHOWN_AT_FIRST;
  byId("more").textContent = showAll ? "Show the largest " + SHOWN_AT_FIRST : "Show all " + live.length;
}

// ---- the order as a table: only the rows near the window exist
const table = { steps: [], plan: 0 };
function fillOrder() {
  const plan = Number(byId("which").value), wanted = byId("find").value.trim().toLowerCase();
  table.plan = plan;
  table.steps = [];
  for (let step = 0; step < stepCount; step++) {
    const op = opOf(plan, step);
    if (!wanted || (ops.name[op] + " " + kindOf(op) + " " + sourceOfStep(plan, step)).toLowerCase().includes(wanted))
      table.steps.push(step);
  }
  byId("found").textContent = wanted ? table.steps.length + " of " + stepCount + " steps" : "";
  showRows();
}
function spacer(rows) {
  const made = element("tr", undefined, "spacer"), cell = element("td");
  made.setAttribute("aria-hidden", "true");
  cell.style.height = rows * ROW + "px";
  made.append(cell);
  return made;
}
function showRows() {
  const box = byId("order"), { plan, steps } = table, { peaks, levels } = plans[plan];
  const begin = Math.max(0, Math.floor(box.scrollTop / ROW) - ROWS_AROUND);
  const end = Math.min(steps.length, begin + Math.ceil(box.clientHeight / ROW) + 2 * ROWS_AROUND);
  const rows = steps.slice(begin, end).map(step => {
    const op = opOf(plan, step);
    const made = row([step, ops.name[op], kindOf(op), bytes(allocated(plan, step)), bytes(freed(plan, step)),
      bytes(peaks[step]), bytes(levels[step]), ...(buffers.source ? [sourceOfStep(plan, step)] : [])], "td",
      [0, 3, 4, 5, 6]);
    made.setAttribute("aria-rowindex", step + 2);
    made.addEventListener("click", () => moveTo(plan, step));
    if (plan === cursor.plan && step === cursor.step) made.className = "here";
    return made;
  });
  box.querySelector("table").setAttribute("aria-rowcount", stepCount + 1);
  box.querySelector("tbody").replaceChildren(spacer(begin), ...rows, spacer(steps.length - end));
}
function scrollToCursor() {
  const box = byId("order"), at = table.steps.indexOf(cursor.step);
  if (at >= 0 && (at * ROW < box.scrollTop || (at + 3) * ROW > box.scrollTop + box.clientHeight))
    box.scrollTop = at * ROW - box.clientHeight / 2;
  showRows();
}

// ---- start
function redraw() {
  if (redrawAsked) return;
  redrawAsked = true;
  requestAnimationFrame(() => { redrawAsked = false; charts.forEach(chart => chart.draw()); });
}
function start() {
  readColours();
  plans.forEach((plan, at) => {
    const option = element("option", plan.title);
    option.value = at;
    byId("which").append(option);
  });
  byId("which").value = cursor.plan;
  byId("order").querySelector("thead").append(row(["step", "op", "kind", "allocates", "frees", "live while running",
    "live after", ...(buffers.source ? ["source line"] : [])], "th", [0, 3, 4, 5, 6]));
  charts = plans.map((_, plan) => new Chart(plan));
  byId("which").addEventListener("change", event => moveTo(Number(event.target.value), cursor.step));
  byId("which").addEventListener("change", fillOrder);
  byId("find").addEventListener("input", () => { byId("order").scrollTop = 0; fillOrder(); });
  byId("order").addEventListener("scroll", () => requestAnimationFrame(showRows));
  byId("order").addEventListener("keydown", event => {
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const at = table.steps.indexOf(cursor.step);
    const next = table.steps[Math.max(0, Math.min(table.steps.length - 1, at + by))];
    if (next !== undefined) moveTo(table.plan, next);
  });
  byId("more").addEventListener("click", () => { showAll = !showAll; showStep(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); redraw(); });
  addEventListener("resize", redraw);
  fillOrder();
  moveTo(cursor.plan, cursor.step);
}
start();
"""
