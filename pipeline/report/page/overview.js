"use strict";
// The first view: headline figures, scores from first to kept, score by image, examples.

const EXAMPLES = 6;

function showOverview() {
  const view = byId("view-overview");
  const parts = [tiles()];
  if (!data.done) {
    view.replaceChildren(...parts, panel("No row is finished yet", "Figures and images appear with the first row."));
    return;
  }
  parts.push(el("div", {class: "columns"}, changesPanel(), curvePanel(), distributionPanel(), endsPanel()));
  if (data.acceptance) parts.push(acceptancePanel());
  parts.push(examplesPanel());
  view.replaceChildren(...parts);
}

function tile(title, value, ...notes) {
  return el("div", {class: "tile"}, el("dt", {}, title), el("dd", {}, el("span", {class: "value"}, value), notes.map((note) => el("span", {class: "note"}, note))));
}

function tiles() {
  const failed = data.failures.total;
  const list = [tile("Rows", count(data.done), `of ${count(data.wanted)} prompts, ${failed ? counted(failed, "failed", "failed") : "none failed"}`)];
  for (const {label, figures} of data.changes) {
    if (!figures) {
      list.push(tile(label, "\u2013", "no scores"));
      continue;
    }
    const {first, kept, gain} = figures;
    const change = `${arrow(gain.mean)} ${signed(gain.mean)}`;
    list.push(tile(label, `${score(first.mean)} \u2192 ${score(kept.mean)}`, change, `95% interval: ${interval(gain)}`));
  }
  if (data.acceptance) {
    const {accepted, rows} = data.acceptance;
    list.push(tile("Accepted", percent(accepted / Math.max(1, rows)), `${count(accepted)} of ${counted(rows, "image", "images")}`));
  }
  if (data.rounds !== null) list.push(tile("Rounds per row", data.rounds.toFixed(1), data.method));
  const {seconds, rows_per_minute: rate} = data.operations;
  if (seconds) list.push(tile("Time", duration(seconds), rate ? `${rate.toFixed(1)} rows per minute` : ""));
  return el("dl", {class: "tiles"}, list);
}

function arrow(value) {
  if (value > 0) return "\u25b2";
  return value < 0 ? "\u25bc" : "=";
}

function changesPanel() {
  const rows = [];
  for (const {label, figures} of data.changes) {
    if (!figures) {
      rows.push([label, "", "no scores", "", ""]);
      continue;
    }
    const {first, kept, gain} = figures;
    const words = `${label}: first ${score(first.mean)}, kept ${score(kept.mean)}`;
    const change = el("span", {}, signed(gain.mean), el("small", {}, interval(gain)));
    rows.push([label, intervalChart(figures, words), score(first.mean), score(kept.mean), change]);
  }
  const made = table("Mean scores of first and kept images", ["", "from 0 to 1", "first", "kept", "change"], rows, {numeric: true});
  made.classList.add("changes");
  const note = "Means with 95% intervals over rows: \u25cb first image, \u25cf kept image. The score that steers also selects, so it rises by construction; a judge never takes part.";
  const list = el("ul", {class: "notes"}, data.notes.map((line) => el("li", {}, line)));
  return panel("Scores, first to kept", note, wide("Mean scores", made), list);
}

function curvePanel() {
  const words = `Mean best score after each image: ${data.curve.map(score).join(", ")}`;
  const rows = data.curve.map((value, place) => [String(place), score(value)]);
  return panel(
    "Score by image",
    "Mean best score after the first image (0) and each image that followed. A row that stopped counts with its best.",
    curveChart(data.curve, short(words, 400), "images after the first"),
    tableBehind("Mean best score by image", ["image", "score"], rows),
  );
}

function tableBehind(caption, headings, rows) {
  return el("details", {}, el("summary", {}, "Table"), table(caption, headings, rows, {numeric: true}));
}

function distributionPanel() {
  const box = el("div");
  const choice = el("select", {id: "distribution", onchange: () => draw(choice.value)});
  for (const {key, label} of data.changes) choice.append(el("option", {value: key}, label));
  function draw(key) {
    const first = data.rows.map((row) => row.scores[key][0]).filter((value) => value !== null);
    const kept = data.rows.map((row) => row.scores[key][1]).filter((value) => value !== null);
    const series = [{values: first, kind: "first"}, {values: kept, kind: "kept"}];
    const counts = series.map(({values}) => binned(values, 0, 1, 10));
    const rows = counts[0].map((amount, bin) => [`${bin / 10} to ${(bin + 1) / 10}`, count(amount), count(counts[1][bin])]);
    box.replaceChildren(
      histogram(series, "How often scores occur among first and kept images; the table has the numbers", {low: 0, high: 1, xLabel: "score"}),
      tableBehind("Rows by score", ["score", "first", "kept"], rows),
    );
  }
  draw(data.changes[0].key);
  const field = el("p", {class: "field inline"}, el("label", {for: "distribution"}, "Scores of"), choice);
  return panel("Distribution", sampled("Rows by score: outlined bars are first images, filled bars kept images."), field, box);
}

function sampled(note) {
  return data.sampled ? `${note} Of the ${count(data.rows.length)} rows on this page.` : note;
}

function endsPanel() {
  const rounds = data.rows.map((row) => row.rounds);
  const most = Math.max(1, ...rounds);
  const options = {low: -0.5, high: most + 0.5, bins: most + 1, xLabel: "rounds"};
  return panel(
    "How searches ended",
    sampled("Rows by number of rounds after the first image, and why a search stopped."),
    histogram([{values: rounds, kind: "kept"}], "How many rounds searches took", options),
    bars("Rows by stop reason", "stopped because", data.stops, data.done, stopText),
  );
}

function acceptancePanel() {
  const {lines, reasons, rows, accepted, waiting} = data.acceptance;
  const amounts = {accepted, ...reasons};
  if (waiting) amounts["not evaluated yet"] = waiting;
  const list = el("ul", {class: "notes"}, lines.map((line) => el("li", {}, line)));
  return panel("Acceptance", null, list, bars("Rows by verdict", "verdict", amounts, rows));
}

function examplesPanel() {
  const rows = data.rows.filter((row) => gain(row, "score") !== null);
  rows.sort((one, other) => gain(other, "score") - gain(one, "score") || one.place - other.place);
  const best = rows.slice(0, EXAMPLES);
  const link = el("p", {}, el("a", {href: "#images"}, `All ${counted(data.rows.length, "row", "rows")} with filters`));
  return panel("Largest gains", null, el("ul", {class: "cards"}, best.map((row) => card(row, best))), link);
}
