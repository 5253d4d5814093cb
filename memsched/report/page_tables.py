"""The second half of the page's script: moving about, the buffers of one step, the table of the order.

look(from, to), pan, zoom     which steps are in view, the same for all charts
moveTo(plan, step)            which step of which plan is looked at: charts, sentence and tables follow
showRows()                    of the table of the order only the rows near the window exist, two spacers hold the
                              place of the others, so that 5,000 rows scroll like 30
"""

from __future__ import annotations

__all__ = ["TABLES"]

TABLES = r"""// ---- moving about
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
