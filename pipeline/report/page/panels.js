"use strict";
// The views of problems and of the run itself.

const GROUPS = 20; // of near-duplicates shown
const IN_GROUP = 12;

function showProblems() {
  byId("view-problems").replaceChildren(failuresPanel(), doubtsPanel(), duplicatesPanel());
}

function failuresPanel() {
  const {total, errors, rows} = data.failures;
  if (!total) return panel("Failures", null, el("p", {}, "No row has failed."));
  const listed = rows.map(({id, prompt, error, message, stage, attempts}) => [
    id, short(prompt, 160), error, message, stage, String(attempts),
  ]);
  const headings = ["id", "prompt", "error", "message", "stage", "attempts"];
  const list = table("Failed rows", headings, listed);
  list.classList.add("failures");
  const note = rows.length < total ? `The first ${rows.length} of ${count(total)} rows.` : null;
  return panel(
    "Failures",
    "Rows that failed for good. Tracebacks, paths and machines are left out here; they are in the run's folder failed.",
    bars("Failed rows by error", "error", errors, total),
    wide("Failed rows", list),
    note ? el("p", {class: "note"}, note) : null,
  );
}

// Rows in which a judge sees the kept image as worse: there the search may have fooled the scorer.
function doubtsPanel() {
  const judges = data.changes.filter(({key}) => key.startsWith("judge_"));
  if (!judges.length) return panel("Where judges disagree", null, el("p", {}, "No independent judge looked at these images."));
  const lines = judges.map(({key, label}) => {
    const worse = data.rows.filter((row) => (gain(row, key) ?? 0) < -1e-9);
    const rows = `${counted(worse.length, "row", "rows")}: ${label} scores the kept image below the first.`;
    const show = el("button", {type: "button", onclick: () => showWorse(key)}, "Show them");
    return el("li", {}, rows, " ", worse.length ? show : null);
  });
  return panel("Where judges disagree", sampled("The search may have found an image that only its scorer likes."), el("ul", {class: "notes"}, lines));
}

function showWorse(key) {
  resetFilters();
  wanted.sort = `${key}.gain`;
  wanted.falling = false;
  wanted.ranges[`${key}.gain`] = [null, -1e-9];
  showFilters();
  showGallery();
  location.hash = "images";
}

function duplicatesPanel() {
  const groups = data.duplicates;
  if (!groups.length) return panel("Near-duplicates", null, el("p", {}, "No two kept images are near-duplicates."));
  const rows = groups.reduce((total, group) => total + group.length, 0);
  const note = `Kept images whose perceptual hashes differ in at most ${data.near.differing} of ${data.near.bits} bits: ${counted(rows, "image", "images")} in ${counted(groups.length, "group", "groups")}.`;
  const shown = groups.slice(0, GROUPS).map((group) => duplicateGroup(group.map((place) => data.rows[place])));
  const rest = groups.length > GROUPS ? el("p", {class: "note"}, `The ${GROUPS} largest groups. The gallery can show all.`) : null;
  return panel("Near-duplicates", sampled(note), shown, rest);
}

function duplicateGroup(rows) {
  const items = rows.slice(0, IN_GROUP).map((row) => {
    const words = `kept image: ${short(row.prompt, 100)}`;
    const button = el("button", {type: "button", class: "thumb", title: row.prompt, onclick: () => openDetail(row, rows)}, picture(row, "kept", words));
    return el("li", {}, button);
  });
  const rest = rows.length > IN_GROUP ? el("li", {class: "note"}, `and ${rows.length - IN_GROUP} more`) : null;
  return el("ul", {class: "group", "aria-label": `${rows.length} near-duplicates`}, items, rest);
}

function showRun() {
  const parts = [el("div", {class: "columns"}, settingsPanel(), timePanel())];
  if (data.rows.length) parts.push(noisePanel());
  byId("view-run").replaceChildren(...parts);
}

function timePanel() {
  const figures = data.operations;
  if (!("seconds" in figures)) return panel("Time", null, el("p", {}, "No session has written its figures yet."));
  const rows = [["time", duration(figures.seconds)]];
  if ("rows_written" in figures) rows.push(["rows written", count(figures.rows_written)]);
  if ("rows_per_minute" in figures) rows.push(["rows per minute", figures.rows_per_minute.toFixed(1)]);
  if ("images_done" in figures) rows.push(["images made", count(figures.images_done)]);
  if ("images_per_minute" in figures) rows.push(["images per minute", figures.images_per_minute.toFixed(1)]);
  for (const side of ["generators", "scorers"]) {
    const share = figures[`busy_${side}`];
    if (share === undefined) continue;
    const bar = el("span", {class: "bar-track", "aria-hidden": "true"}, el("span", {class: "bar-fill"}));
    bar.firstChild.style.width = `${100 * share}%`;
    const workers = side in figures ? ` (${figures[side]})` : "";
    rows.push([`${side}${workers}, busy`, el("span", {class: "busy"}, bar, percent(share))]);
  }
  if ("retries" in figures) rows.push(["calls tried again", count(figures.retries)]);
  const errors = Object.entries(figures.errors ?? {}).map(([name, amount]) => `${name} ${amount}`).join(", ");
  if (errors) rows.push(["errors", errors]);
  const when = figures.partitions ? `Added up over the last sessions of ${figures.partitions} partitions.` : "Of the last session, since its models were loaded. Busy: the share of that time in which the workers worked.";
  return panel("Time", when, table("Time and busy shares", ["", ""], rows));
}

function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

// The kept noises against N(0, I) of the same number of values.
function noisePanel() {
  const size = data.rows[0].recipe.shape.reduce((product, side) => product * side, 1);
  const spread = 1.96 / Math.sqrt(2 * size);
  const far = 1.358 / Math.sqrt(size); // 95% of the Kolmogorov distribution
  const kinds = [
    ["norm", "norm, \u2016z_T\u2016/\u221aD", [1 - spread, 1 + spread]],
    ["std", "standard deviation", [1 - spread, 1 + spread]],
    ["mean", "mean", [-1.96 / Math.sqrt(size), 1.96 / Math.sqrt(size)]],
    ["ks", "Kolmogorov\u2013Smirnov distance", [0, far]],
  ];
  const rows = kinds.map(([name, words, [low, high]]) => {
    const values = data.rows.map((row) => row.noise[name]).filter((value) => value !== null).sort((a, b) => a - b);
    const mean = values.reduce((total, value) => total + value, 0) / values.length;
    const inside = values.filter((value) => value >= low && value <= high).length / values.length;
    return [words, score(mean), `${score(quantile(values, 0.05))} to ${score(quantile(values, 0.95))}`, `${score(low)} to ${score(high)}`, percent(inside)];
  });
  const norms = data.rows.map((row) => row.noise.norm).filter((value) => value !== null);
  const low = Math.min(1 - 2 * spread, ...norms);
  const high = Math.max(1 + 2 * spread, ...norms);
  const drawn = histogram([{values: norms, kind: "kept"}], "Norms of the kept noises; the table has the numbers", {low, high, band: [1 - spread, 1 + spread], xLabel: "norm of the kept noise"});
  const headings = ["", "mean", "90% of rows", "95% of fresh noise", "rows inside"];
  const note = `The kept noises compared with fresh noise of ${count(size)} values; the band holds 95% of fresh noise. Far from it, the diffusion model sees what it was not trained on.`;
  return panel("Noise", sampled(note), drawn, wide("Noise figures", table("Noise of the kept images", headings, rows, {numeric: true})));
}

function settingsPanel() {
  const made = table("Settings", ["setting", "value"], data.settings.map(([name, value]) => [name, value]));
  made.classList.add("settings");
  return panel("Settings", linked(data.description), made);
}
