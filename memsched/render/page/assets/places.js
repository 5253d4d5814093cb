/* The third part of the page's script: buffers by place, which colors the charts, and one place that is highlighted.

by            "class" (how long a buffer lives), or a column of the buffers: "source", "module", "role"
placeOf       what a buffer is summed up under: blocks.0.up and blocks.1.up are blocks.*.up
paint()       a color for each place, the largest places first; all others are gray
highlight     all buffers of one place, null for none
showPlaces()  the places of the step that is looked at, with sizes and shares; a click highlights all of a place
*/
const PALETTE = ["#4f83b8", "#d08a3c", "#4a9a72", "#b05a8a", "#8a79c9", "#b8a13a", "#3f9aa6", "#c0604f", "#7d9a3f",
  "#6b7fd0"];
const CLASS_WORDS = ["input, freed after its last reader", "kept to the end, or held by the caller", "temporary"];
let by = "class", place = null, rank = new Map();
function placeOf(plan, buffer) {
  if (by === "class") return CLASS_WORDS[plans[plan].buffers.class[buffer]];
  const found = text(plan, by, buffer);
  if (by === "role") return found || "temporary";
  return by === "module" ? found.replace(/(^|\.)\d+(?=\.|$)/g, "$1*") : found;
}
// Places with their bytes and buffers, the largest first.
function placesAt(plan, step) {
  const places = new Map();
  for (const buffer of liveAt(plan, step)) {
    const name = placeOf(plan, buffer), known = places.get(name) || { name, bytes: 0, count: 0 };
    known.bytes += plans[plan].buffers.size[buffer];
    known.count++;
    places.set(name, known);
  }
  return [...places.values()].sort((a, b) => b.bytes - a.bytes || (a.name < b.name ? -1 : 1));
}
// Colors follow the peak of the last plan, so that they stay put while the reader moves about.
function paint() {
  const chosen = plans.length - 1;
  rank = new Map();
  if (by !== "class")
    placesAt(chosen, plans[chosen].peakStep).slice(0, PALETTE.length).forEach(({ name }, at) => rank.set(name, at));
  plans.forEach(({ graph }, plan) => {
    const { buffers } = graphs[graph];
    graphs[graph].fill = Uint32Array.from(buffers.class, (kind, buffer) => {
      if (by === "class") return colors.shades[buffer % colors.shades.length][kind];
      const at = rank.get(placeOf(plan, buffer));
      return at === undefined ? colors.scratch : packed(PALETTE[at], 1);
    });
    graphs[graph].marked = Uint8Array.from(buffers.class, (_, buffer) =>
      place !== null && placeOf(plan, buffer) === place ? 1 : 0);
  });
  byId("classes").hidden = by !== "class";
}
function highlight(name) {
  place = name;
  paint();
}
function showPlaces() {
  const { plan, step } = cursor, peak = plans[plan].peaks[step] || 1;
  const rows = placesAt(plan, step).map(({ name, bytes: size, count }) => {
    const made = row([name || "unknown", bytes(size), (100 * size / peak).toFixed(1) + " %", count], "td", [1, 2, 3]);
    const swatch = element("span", "", "swatch"), at = rank.get(name);
    if (by === "class") swatch.classList.add(CLASSES[CLASS_WORDS.indexOf(name)]);
    else if (at === undefined) swatch.classList.add("scratch");
    else swatch.style.background = PALETTE[at];
    made.firstChild.prepend(swatch);
    made.addEventListener("click", () => { highlight(place === name ? null : name); moveTo(plan, step); });
    if (place === name) made.className = "here";
    return made;
  });
  const top = element("thead"), body = element("tbody"), titles = { class: "how long it lives", source: "source line" };
  top.append(row([titles[by] || by, "bytes", "share", "buffers"], "th", [1, 2, 3]));
  body.append(...rows);
  byId("places").replaceChildren(top, body);
}
// A column that no buffer of these plans has is not offered.
function offerColumns() {
  for (const option of byId("by").options)
    option.disabled = option.value !== "class" && !plans.some(plan => plan.buffers[option.value]);
  if (byId("by").selectedOptions[0].disabled) byId("by").value = by = "class";
}
