"use strict";
// The gallery: filters, order, and cards that are made when they are asked for.

const AT_ONCE = 24; // cards added at a time

const wanted = {text: "", stop: "", verdict: "", column: "", value: "", twins: false, sort: "score.gain", falling: true, ranges: {}};
let found = []; // the rows that pass the filters, in order
let made = 0; // how many of them have a card

function passes(row) {
  if (wanted.text && !row.searched.includes(wanted.text)) return false;
  if (wanted.stop && row.stop !== wanted.stop) return false;
  if (wanted.verdict && verdictOf(row) !== wanted.verdict) return false;
  if (wanted.twins && !duplicateOf.has(row.place)) return false;
  if (wanted.column && wanted.value && !columnHas(row)) return false;
  for (const [id, [low, high]] of Object.entries(wanted.ranges)) {
    const value = measureById.get(id)?.value(row) ?? null;
    if (value === null || (low !== null && value < low) || (high !== null && value > high)) return false;
  }
  return true;
}

function columnHas(row) {
  const value = row.extra[wanted.column];
  return value !== null && String(value).toLowerCase().includes(wanted.value);
}

function verdictOf(row) {
  if (row.accepted === null || row.accepted === undefined) return "unknown";
  return row.accepted ? "accepted" : "rejected";
}

function sortRows(rows) {
  const measure = measureById.get(wanted.sort);
  const sign = wanted.falling ? -1 : 1;
  if (!measure) return wanted.falling ? rows.reverse() : rows;
  const values = new Map(rows.map((row) => [row, measure.value(row)]));
  return rows.sort((one, other) => {
    const a = values.get(one);
    const b = values.get(other);
    if (a === null || b === null) return (a === null) - (b === null) || one.place - other.place; // unknown comes last
    return sign * (a - b) || one.place - other.place;
  });
}

// Apply the filters. `keep` cards stay on the page where the view is only brought up to date.
function showGallery(keep = AT_ONCE) {
  found = sortRows(data.rows.filter(passes));
  made = 0;
  byId("gallery").replaceChildren();
  addCards(Math.max(keep, AT_ONCE));
  byId("shown").textContent = shownText();
}

function shownText() {
  let text = `${count(found.length)} of ${counted(data.rows.length, "row", "rows")} shown`;
  if (data.sampled) text += `; the run has ${count(data.done)} rows, of which this page holds a random sample (seed 0)`;
  if (data.pending) text += `; ${counted(data.pending, "picture", "pictures")} to come`;
  return `${text}.`;
}

function addCards(amount) {
  const next = found.slice(made, made + amount);
  byId("gallery").append(...next.map((row) => card(row, found)));
  made += next.length;
  const left = found.length - made;
  const more = byId("more");
  more.hidden = left === 0;
  more.textContent = `Show ${count(Math.min(AT_ONCE, left))} more of ${count(left)}`;
}

// One row. `among` are the rows that the detail view steps through.
function card(row, among) {
  const opener = el("button", {type: "button", class: "open", onclick: () => openDetail(row, among)}, row.prompt.trim() || "(empty prompt)");
  const difference = gain(row, "score");
  const facts = [
    el("span", {class: "change", title: "change of the score"}, `${arrow(difference)} ${signed(difference)}`),
    sparkline(row),
    el("span", {class: "stop", title: stopText(row.stop)}, counted(row.rounds, "round", "rounds")),
  ];
  const judged = data.changes.filter(({key}) => key !== "score").map(({key, label}) => judgeLine(row, key, label));
  if ("accepted" in row) judged.push(el("li", {class: `verdict ${verdictOf(row)}`}, verdictText(row)));
  return el(
    "li",
    {class: "card", "data-id": row.id},
    el("div", {class: "pair"}, data.has_first ? shot(row, "first") : null, shot(row, "kept")),
    el("h3", {}, opener),
    el("p", {class: "facts"}, facts),
    judged.length ? el("ul", {class: "judged"}, judged) : null,
  );
}

function shot(row, kind) {
  const value = row.scores.score[kind === "kept" ? 1 : 0];
  const bar = el("span", {class: "bar-track", "aria-hidden": "true"}, el("span", {class: `bar-fill ${kind}`}));
  bar.firstChild.style.width = `${100 * (value ?? 0)}%`;
  const caption = el("figcaption", {}, el("span", {}, kind), el("b", {}, score(value)), bar);
  return el("figure", {}, picture(row, kind), caption);
}

function judgeLine(row, key, label) {
  const [first, kept] = row.scores[key];
  const values = first === null && kept === null ? "no score" : `${score(first)} \u2192 ${score(kept)}`;
  return el("li", {}, el("span", {}, label), el("span", {}, values));
}

function verdictText(row) {
  const verdict = verdictOf(row);
  if (verdict === "accepted") return "\u2713 accepted";
  return verdict === "rejected" ? `\u2717 not accepted: ${row.reason}` : "? not evaluated yet";
}
