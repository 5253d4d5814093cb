/* The last part of the page's script: moving about, the buffers of one step, the table of the order.

open(part)                    which compiled graph is shown, with its plans
look(from, to), pan, zoom     which steps are in view, the same for all charts
moveTo(plan, step)            which step of which plan is looked at: charts, sentence, tables and address follow
showRows()                    of the table of the order only the rows near the window exist, two spacers hold the
                              place of the others, so that 5,000 rows scroll like 30
*/
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
  cursor.step = Math.max(0, Math.min(plans[plan].count - 1, step));
  const width = view.to - view.from, place = cursor.step * scaleOf(plan);
  if (place < view.from || place >= view.to) look(place - width / 2, place + width / 2);
  if (byId("which").value !== String(plan)) { byId("which").value = plan; fillOrder(); }
  scrollToCursor();
  showPlaces();
  showStep();
  tellAddress();
  redraw();
}
// What is looked at stands in the address, so that a link to a page leads to the same place of it.
function tellAddress() {
  const words = { graph: byId("part").value, plan: cursor.plan, step: cursor.step, by };
  const told = "#" + new URLSearchParams(words);
  if (location.hash !== told) location.replace(told);
}
function followAddress() {
  const told = new URLSearchParams(location.hash.slice(1)), number = name => Number(told.get(name));
  if (!(number("graph") in parts) || !told.has("graph")) return false;
  byId("part").value = number("graph");
  const wanted = told.get("by"), known = [...byId("by").options].some(option => option.value === wanted);
  if (known) byId("by").value = by = wanted;
  open(number("graph"));
  if (number("plan") in plans) moveTo(number("plan"), Math.floor(number("step")) || 0);
  return true;
}
function selectNext(plan, by) {
  const live = liveAt(plan, cursor.step), at = live.indexOf(selectedIn(plan));
  if (live.length) selected = live[at < 0 ? 0 : (at + by + live.length) % live.length];
  selectedGraph = plans[plan].graph;
  moveTo(plan, cursor.step);
}
function onKey(event, plan) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const width = view.to - view.from, middle = (cursor.step + 0.5) * scaleOf(plan);
  const actions = {
    ArrowLeft: () => event.shiftKey ? pan(-width / 8) : moveTo(plan, cursor.step - 1),
    ArrowRight: () => event.shiftKey ? pan(width / 8) : moveTo(plan, cursor.step + 1),
    PageUp: () => moveTo(plan, cursor.step - Math.ceil(width / scaleOf(plan) / 10)),
    PageDown: () => moveTo(plan, cursor.step + Math.ceil(width / scaleOf(plan) / 10)),
    Home: () => moveTo(plan, 0), End: () => moveTo(plan, plans[plan].count - 1),
    ArrowDown: () => selectNext(plan, 1), ArrowUp: () => selectNext(plan, -1),
    "+": () => zoom(0.7, middle), "=": () => zoom(0.7, middle), "-": () => zoom(1 / 0.7, middle),
    "0": () => look(0, stepCount), p: () => moveTo(plan, plans[plan].peakStep),
    P: () => moveTo(plan, plans[plan].peakStep),
    Escape: () => { selected = -1; highlight(null); moveTo(plan, cursor.step); },
  };
  if (!Object.hasOwn(actions, event.key)) return false;
  actions[event.key]();
  return true;
}

// ---- the step that is looked at
function showStep() {
  const { plan, step } = cursor, { ops, buffers, count, title } = plans[plan];
  const op = opOf(plan, step), live = liveAt(plan, step), peak = plans[plan].peaks[step];
  const scratch = ops.workspace[op], kind = kindOf(plan, op);
  const picked = selectedIn(plan), measured = measuredAt(plan, step);
  byId("step-words").textContent = title + ", step " + step + " of " + count + ": " + ops.name[op] +
    (kind ? " (" + kind + ")" : "") + ". " + bytes(peak) + " live in " + live.length + " buffers" +
    (scratch ? " and " + bytes(scratch) + " of workspace" : "") +
    (peak === plans[plan].peak ? "; this is the peak." : ".") +
    (measured < 0 ? "" : " Measured: " + bytes(measured) + ".") +
    (picked >= 0 ? " Selected: " + buffers.name[picked] + ", " + bytes(buffers.size[picked]) + "." : "");
  const known = ["type", "source", "module", "role"].filter(column => buffers[column]);
  const titles = known.map(column => ({ source: "source line", role: "kept as" })[column] || column);
  const head = ["buffer", "bytes", "share", ...titles, "live", "made by"];
  const rows = (showAll ? live : live.slice(0, SHOWN_AT_FIRST)).map(buffer => {
    const made = row([buffers.name[buffer], bytes(buffers.size[buffer]),
      (100 * buffers.size[buffer] / (peak || 1)).toFixed(1) + " %", ...known.map(column => text(plan, column, buffer)),
      lifetime(plan, buffer), maker(plan, buffer)], "td", [1, 2]);
    made.addEventListener("click", () => { select(plan, buffer); moveTo(plan, step); });
    if (buffer === picked) made.className = "here";
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
  const { ops, count } = plans[plan];
  for (let step = 0; step < count; step++) {
    const op = opOf(plan, step);
    const words = ops.name[op] + " " + kindOf(plan, op) + " " + sourceOfStep(plan, step);
    if (!wanted || words.toLowerCase().includes(wanted)) table.steps.push(step);
  }
  byId("found").textContent = wanted ? table.steps.length + " of " + count + " steps" : "";
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
  const box = byId("order"), { plan, steps } = table, { ops, buffers, peaks, levels, count } = plans[plan];
  const begin = Math.max(0, Math.floor(box.scrollTop / ROW) - ROWS_AROUND);
  const end = Math.min(steps.length, begin + Math.ceil(box.clientHeight / ROW) + 2 * ROWS_AROUND);
  const rows = steps.slice(begin, end).map(step => {
    const op = opOf(plan, step);
    const made = row([step, ops.name[op], kindOf(plan, op), bytes(allocated(plan, step)), bytes(freed(plan, step)),
      bytes(peaks[step]), bytes(levels[step]), ...(buffers.source ? [sourceOfStep(plan, step)] : [])], "td",
      [0, 3, 4, 5, 6]);
    made.setAttribute("aria-rowindex", step + 2);
    made.addEventListener("click", () => moveTo(plan, step));
    if (plan === cursor.plan && step === cursor.step) made.className = "here";
    return made;
  });
  box.querySelector("table").setAttribute("aria-rowcount", count + 1);
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
function fillHead() {
  const titles = ["step", "op", "kind", "allocates", "frees", "live while running", "live after",
    ...(plans[table.plan].buffers.source ? ["source line"] : [])];
  byId("order").querySelector("thead").replaceChildren(row(titles, "th", [0, 3, 4, 5, 6]));
}
// Show one compiled graph: its plans get their charts, all else that is about another graph is hidden.
function open(number) {
  const chosen = parts[number].plans.length - 1;
  ({ plans, bound } = parts[number]);
  stepCount = plans[chosen].count;
  highest = Math.max(bound || 0, ...plans.map(plan => plan.peak),
    ...plans.map(plan => plan.measured ? plan.measured.peak : 0)) || 1;
  Object.assign(view, { from: 0, to: stepCount });
  Object.assign(cursor, { plan: chosen, step: plans[chosen].peakStep });
  selected = -1;
  offerColumns();
  highlight(null);
  document.querySelectorAll("[data-part]").forEach(box => { box.hidden = box.dataset.part !== String(number); });
  byId("which").replaceChildren(...plans.map((plan, at) => {
    const option = element("option", plan.title);
    option.value = at;
    return option;
  }));
  byId("which").value = chosen;
  byId("charts").replaceChildren();
  charts = plans.map((_, plan) => new Chart(plan));
  fillOrder();
  fillHead();
  moveTo(chosen, cursor.step);
}
function start() {
  readColours();
  const choice = byId("part"), peaks = parts.map(part => part.plans[part.plans.length - 1].peak);
  parts.forEach((part, at) => {
    const option = element("option", part.name);
    option.value = at;
    choice.append(option);
  });
  choice.value = peaks.indexOf(Math.max(...peaks));
  byId("parts").hidden = parts.length < 2;
  choice.addEventListener("change", () => open(Number(choice.value)));
  byId("which").addEventListener("change", event => moveTo(Number(event.target.value), cursor.step));
  byId("which").addEventListener("change", () => { fillOrder(); fillHead(); });
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
  byId("by").addEventListener("change", event => {
    by = event.target.value;
    highlight(null);
    moveTo(cursor.plan, cursor.step);
  });
  byId("more").addEventListener("click", () => { showAll = !showAll; showStep(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); paint(); redraw(); });
  addEventListener("resize", redraw);
  if (!followAddress()) open(Number(choice.value));
}
start();
