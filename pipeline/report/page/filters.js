"use strict";
// The form above the gallery.

function field(id, words, control) {
  return el("p", {class: "field"}, el("label", {for: id}, words), control);
}

function select(id, options, chosen, changed) {
  const control = el("select", {id, onchange: () => { changed(control.value); showGallery(); }});
  for (const [value, words] of options) control.append(el("option", {value, selected: value === chosen}, words));
  return control;
}

function input(id, type, value, changed) {
  const control = el("input", {id, type, value, autocomplete: "off", oninput: () => { changed(control.value); showGallery(); }});
  return control;
}

// Make the form for the data at hand; what is chosen stays chosen.
function showFilters() {
  const focused = document.activeElement?.id;
  const wasOpen = byId("ranges")?.open ?? false;
  const search = input("search", "search", wanted.text, (text) => { wanted.text = text.trim().toLowerCase(); });
  search.placeholder = "words of a prompt, or an id";
  const sorts = [...measures.map(({id, label}) => [id, label]), ["id", "order of the corpus"]];
  const parts = [
    field("search", "Search", search),
    field("sort", "Sort by", select("sort", sorts, wanted.sort, (value) => { wanted.sort = value; })),
    field("falling", "Order", select("falling", [["yes", "largest first"], ["", "smallest first"]], wanted.falling ? "yes" : "", (value) => { wanted.falling = value === "yes"; })),
    field("stop", "Stopped because", select("stop", [["", "any reason"], ...Object.keys(data.stops).map((name) => [name, stopText(name)])], wanted.stop, (value) => { wanted.stop = value; })),
  ];
  if (data.acceptance) {
    const verdicts = [["", "all"], ["accepted", "accepted"], ["rejected", "not accepted"], ["unknown", "not evaluated"]];
    parts.push(field("verdict", "Verdict", select("verdict", verdicts, wanted.verdict, (value) => { wanted.verdict = value; })));
  }
  if (data.columns.length) parts.push(...columnFields());
  if (data.duplicates.length) parts.push(twinsField());
  const reset = el("button", {type: "button", id: "reset", onclick: resetFilters}, "Reset");
  byId("filters").replaceChildren(el("div", {class: "fields"}, parts, reset), rangeFields(wasOpen));
  if (focused && byId("filters").contains(byId(focused))) byId(focused).focus();
}

function columnFields() {
  const options = [["", "any column"], ...data.columns.map((name) => [name, name])];
  const names = select("column", options, wanted.column, (name) => {
    wanted.column = name;
    showValues();
  });
  const value = input("value", "text", wanted.value, (text) => { wanted.value = text.trim().toLowerCase(); });
  value.setAttribute("list", "values");
  const list = el("datalist", {id: "values"});
  setTimeout(showValues);
  return [field("column", "Column", names), field("value", "Value contains", value), list];
}

// Offer the commonest values of the chosen column.
function showValues() {
  const counts = new Map();
  for (const row of wanted.column ? data.rows : []) {
    const value = String(row.extra[wanted.column] ?? "");
    counts.set(value, (counts.get(value) ?? 0) + 1);
  }
  const common = [...counts].sort((one, other) => other[1] - one[1]).slice(0, 50);
  byId("values")?.replaceChildren(...common.map(([value]) => el("option", {value})));
}

function twinsField() {
  const box = el("input", {id: "twins", type: "checkbox", onchange: () => { wanted.twins = box.checked; showGallery(); }});
  box.checked = wanted.twins;
  return el("p", {class: "field check"}, box, el("label", {for: "twins"}, "near-duplicates only"));
}

function rangeFields(isOpen) {
  const lines = measures.map(({id, label}) => {
    const [low, high] = wanted.ranges[id] ?? [null, null];
    return el("div", {class: "range", role: "group", "aria-label": label}, el("span", {}, label), bound(id, label, 0, low), bound(id, label, 1, high));
  });
  return el("details", {id: "ranges", open: isOpen}, el("summary", {}, "Ranges of scores"), el("div", {class: "range-list"}, lines));
}

function bound(id, label, place, value) {
  const words = place ? "at most" : "at least";
  const control = input(`${id}.${place}`, "number", value ?? "", (text) => {
    const range = wanted.ranges[id] ?? [null, null];
    range[place] = text === "" ? null : Number(text);
    wanted.ranges[id] = range;
    if (range[0] === null && range[1] === null) delete wanted.ranges[id];
  });
  control.step = "any";
  control.placeholder = words;
  control.setAttribute("aria-label", `${label}, ${words}`);
  return control;
}

function resetFilters() {
  Object.assign(wanted, {text: "", stop: "", verdict: "", column: "", value: "", twins: false, sort: "score.gain", falling: true, ranges: {}});
  showFilters();
  showGallery();
}
