/* The second part of the page's script: the chart of one order on a canvas.

It draws column by column:

    column of pixels -> the steps that fall into it -> the one with the largest peak -> the buffers live there, stacked

so that a peak is never lost between two columns.  The buffers that live in each block of 64 steps are listed once, in
the order in which they are stacked; a column goes through the list of its block, so that a redraw costs columns x
live buffers, whatever the zoom.  Pixels are written into one image rather than drawn as shapes.  Over it lie, as lines,
the other plans of the same part, what was measured, and the bound.
*/
// ---- a chart
// From the bottom: inputs, kept buffers, temporaries; within each the ones that are born first, so bands stay put.
// Returns for each block of BLOCK steps the buffers that live in it, in this order.
const BLOCK = 64;
function stackedByBlock(plan) {
  const { first, last, buffers, count } = plans[plan];
  const blocks = Array.from({ length: Math.ceil(count / BLOCK) }, () => []);
  const stack = [...first.keys()].sort((a, b) =>
    buffers.class[a] - buffers.class[b] || first[a] - first[b] || a - b);
  for (const buffer of stack) {
    if (!buffers.size[buffer]) continue;
    const end = Math.floor(Math.min(last[buffer], count - 1) / BLOCK);
    for (let block = Math.floor(Math.max(0, first[buffer]) / BLOCK); block <= end; block++) blocks[block].push(buffer);
  }
  return blocks.map(block => Int32Array.from(block));
}
class Chart {
  constructor(plan) {
    this.plan = plan;
    this.blocks = stackedByBlock(plan);
    this.first = Float64Array.from(plans[plan].first);
    this.last = Float64Array.from(plans[plan].last);
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
  x(step) { return PAD.left + (step * scaleOf(this.plan) - view.from) / (view.to - view.from) * this.width; }
  y(count) { return PAD.top + this.height * (1 - count / (highest * 1.04)); }
  stepAt(x) {
    const place = view.from + (x - PAD.left) / this.width * (view.to - view.from);
    return Math.max(0, Math.min(plans[this.plan].count - 1, Math.floor(place / scaleOf(this.plan))));
  }
  // The step that is drawn in the pixels [x, x + width): the highest of those that fall into them.
  highestStep(x, width) {
    const { peaks, count } = plans[this.plan], own = scaleOf(this.plan);
    const scale = (view.to - view.from) / this.width / own, from = view.from / own;
    const begin = Math.max(0, Math.floor(from + (x - PAD.left) * scale));
    const end = Math.min(count, Math.max(begin + 1, Math.ceil(from + (x - PAD.left + width) * scale)));
    let best = Math.min(begin, count - 1);
    for (let step = begin; step < end; step++) if (peaks[step] > peaks[best]) best = step;
    return best;
  }
  bufferAt(x, y) {
    const { first, last } = this, { buffers } = plans[this.plan], step = this.highestStep(x, 1);
    const target = (PAD.top + this.height - y) / this.height * highest * 1.04;
    let below = 0;
    for (const buffer of this.blocks[Math.floor(step / BLOCK)]) {
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
    this.drawOthers(pen);
    this.drawMeasured(pen);
    this.drawBound(pen);
    this.drawCursor(pen);
    this.drawPeak(pen);
  }
  drawBands(pen, ratio) {
    const width = Math.round(this.width * ratio), height = Math.round(this.height * ratio);
    const image = pen.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
    pixels.fill(colors.ground);
    let drawn = -1;
    for (let column = 0; column < width; column++) {
      const step = this.highestStep(PAD.left + column / ratio, 1 / ratio);
      if (step !== drawn) this.paintColumn(pixels, width, height, column, step);
      else for (let at = column; at < pixels.length; at += width) pixels[at] = pixels[at - 1];
      drawn = step;
    }
    pen.putImageData(image, Math.round(PAD.left * ratio), Math.round(PAD.top * ratio));
  }
  // Bands thinner than a pixel share it; the upper edge of a band that is thick enough is dark.
  paintColumn(pixels, width, height, column, step) {
    const { first, last } = this, scale = height / (highest * 1.04), { graph, buffers } = plans[this.plan];
    const { sizes, fill, marked } = graphs[graph], picked = selectedIn(this.plan);
    let total = 0, row = height - 1;
    const block = this.blocks[Math.floor(step / BLOCK)];
    for (let at = 0; at < block.length; at++) {
      const buffer = block[at];
      if (first[buffer] > step || step > last[buffer]) continue;
      total += sizes[buffer];
      const top = Math.round(height - total * scale);
      if (row < top) continue;
      const thick = row - top >= 3, color = buffer === picked || marked[buffer] ? colors.chosen : fill[buffer];
      for (; row >= top; row--) pixels[row * width + column] = color;
      if (thick) pixels[top * width + column] = colors.edge[buffers.class[buffer]];
    }
    const top = Math.round(height - plans[this.plan].peaks[step] * scale);
    for (; row >= top; row--) pixels[row * width + column] = colors.scratch;
  }
  drawAxes(pen) {
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    let tick = 2 ** Math.floor(Math.log2(highest / 4));
    if (highest / tick > 6) tick *= 2;
    for (let count = 0; count <= highest * 1.04; count += tick) {
      pen.globalAlpha = 0.5;
      pen.fillStyle = colors.line;
      pen.fillRect(PAD.left, Math.round(this.y(count)), this.width, 1);
      pen.globalAlpha = 1;
      pen.fillStyle = colors.muted;
      pen.fillText(bytes(count), PAD.left - 8, this.y(count));
    }
    pen.textAlign = "center";
    pen.textBaseline = "top";
    const own = scaleOf(this.plan), steps = (view.to - view.from) / own, unit = 10 ** Math.floor(Math.log10(steps / 4));
    const every = Math.max(1, Math.round([1, 2, 5].map(n => n * unit).find(gap => steps / gap <= 12) || 10 * unit));
    for (let step = Math.ceil(view.from / own / every) * every; step < view.to / own; step += every)
      pen.fillText(step, Math.min(this.x(step + 0.5), PAD.left + this.width - 12), PAD.top + this.height + 6);
  }
  // The other plans of this part, by the highest step of each column of pixels: all in one picture, at one scale.
  drawOthers(pen) {
    pen.strokeStyle = colors.other;
    pen.lineWidth = 1.5;
    for (const other of charts) {
      if (other === this) continue;
      const { peaks } = plans[other.plan];
      pen.beginPath();
      for (let x = PAD.left; x < PAD.left + this.width; x++) pen.lineTo(x, this.y(peaks[other.highestStep(x, 1)]));
      pen.stroke();
    }
  }
  // Samples of what was measured; those that share a column of pixels are drawn as a line from the least to the most.
  drawMeasured(pen) {
    const { measured } = plans[this.plan];
    if (!measured) return;
    const { at, bytes } = measured, end = PAD.left + this.width, own = scaleOf(this.plan);
    pen.strokeStyle = colors.measured;
    pen.lineWidth = 1.5;
    pen.beginPath();
    let index = Math.max(0, firstAt(at, view.from / own) - 1), level = bytes[index];
    for (; index < at.length; index++) {
      const column = Math.round(this.x(at[index]));
      let low = bytes[index], high = bytes[index];
      while (index + 1 < at.length && Math.round(this.x(at[index + 1])) === column) {
        index++;
        low = Math.min(low, bytes[index]);
        high = Math.max(high, bytes[index]);
      }
      const x = Math.max(PAD.left, Math.min(end, column));
      for (const height of [level, low, high, bytes[index]]) pen.lineTo(x, this.y(height));
      level = bytes[index];
      if (column > end) break;
    }
    pen.stroke();
  }
  drawBound(pen) {
    if (!bound) return;
    pen.strokeStyle = colors.bound;
    pen.setLineDash([6, 4]);
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(PAD.left, this.y(bound));
    pen.lineTo(PAD.left + this.width, this.y(bound));
    pen.stroke();
    pen.setLineDash([]);
  }
  drawCursor(pen) {
    const left = Math.max(PAD.left, this.x(cursor.step));
    const right = Math.min(PAD.left + this.width, this.x(cursor.step + 1));
    if (cursor.plan !== this.plan || right < left) return;
    pen.fillStyle = colors.accent;
    pen.globalAlpha = 0.25;
    pen.fillRect(left, PAD.top, Math.max(1, right - left), this.height);
    pen.globalAlpha = 1;
    pen.fillRect((left + right) / 2 - 0.5, PAD.top, 1, this.height);
  }
  drawPeak(pen) {
    const { peak, peakStep } = plans[this.plan], x = this.x(peakStep + 0.5), y = this.y(peak);
    if (x < PAD.left || x > PAD.left + this.width) return;
    pen.fillStyle = colors.ink;
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
        select(this.plan, buffer);
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
    const { plan } = this, { ops, buffers, peaks } = plans[plan];
    const step = this.highestStep(x, 1), buffer = this.bufferAt(x, y), measured = measuredAt(plan, step);
    const lines = ["step " + step + ": " + ops.name[opOf(plan, step)] + ", " + bytes(peaks[step]) + " live" +
      (measured < 0 ? "" : ", " + bytes(measured) + " measured")];
    if (buffer >= 0) lines.unshift(buffers.name[buffer] + "  " + bytes(buffers.size[buffer]),
      ...["type", "source", "operator", "module", "role"].map(column => text(plan, column, buffer)).filter(Boolean),
      "from " + maker(plan, buffer) + ", live " + lifetime(plan, buffer));
    tip.replaceChildren(...lines.map((line, at) => element(at || buffer < 0 ? "div" : "strong", line)));
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)) + "px";
  }
}
