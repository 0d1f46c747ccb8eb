"use strict";
// One row in full: its images, trajectory, scores, questions, recipe and replay command.

let opened = null; // {row, among} of the open dialog
let opener = null; // what has the focus again when it closes

function openDetail(row, among) {
  const dialog = byId("detail");
  opened = {row, among};
  dialog.replaceChildren(...detailParts(row, among));
  if (!dialog.open) {
    opener = document.activeElement;
    dialog.showModal();
  }
  dialog.scrollTop = 0;
}

function closeDetail() {
  byId("detail").close();
}

function step(by) {
  const place = opened.among.findIndex((row) => row.id === opened.row.id) + by;
  const next = opened.among[place];
  if (!next) return;
  const focused = document.activeElement?.dataset?.step;
  openDetail(next, opened.among);
  const button = byId("detail").querySelector(`[data-step="${focused}"]`);
  if (button && !button.disabled) button.focus();
  else byId("detail").querySelector("[data-step=close]").focus();
  speak(`${place + 1} of ${opened.among.length}: ${short(next.prompt, 100)}`);
}

function startDetail() {
  const dialog = byId("detail");
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) closeDetail(); });
  dialog.addEventListener("close", () => {
    const again = opener?.isConnected ? opener : document.querySelector(`#main [data-id="${opened.row.id}"] .open`);
    opened = null;
    again?.focus();
  });
}

function detailParts(row, among) {
  const place = among.findIndex((other) => other.id === row.id);
  const head = el(
    "header",
    {},
    el("p", {class: "note"}, `${count(place + 1)} of ${count(among.length)} \u00b7 ${row.id}`),
    el(
      "div",
      {class: "buttons"},
      el("button", {type: "button", "data-step": "-1", disabled: place === 0, onclick: () => step(-1)}, "Previous"),
      el("button", {type: "button", "data-step": "1", disabled: place === among.length - 1, onclick: () => step(1)}, "Next"),
      el("button", {type: "button", "data-step": "close", onclick: closeDetail}, "Close"),
    ),
    el("h2", {id: "detail-title"}, row.prompt),
  );
  const left = el("div", {}, el("div", {class: "pair"}, data.has_first ? shot(row, "first") : null, shot(row, "kept")), part("Trajectory", trajectoryChart(row), trajectoryNote(row)));
  const right = el("div", {}, scoresPart(row), atomsPart(row), columnsPart(row), recipePart(row));
  return [head, el("div", {class: "detail-body"}, left, right)];
}

function part(title, ...children) {
  return el("section", {}, el("h3", {}, title), children);
}

function trajectoryNote(row) {
  const kept = keptImage(row);
  const images = `${counted(row.trajectory.length, "image", "images")}, ${counted(row.rounds, "round", "rounds")}, stopped: ${stopText(row.stop)}.`;
  const place = kept === null ? "" : ` Kept (ring): image ${kept}.`;
  const parent = row.parent ? ` The first image has the noise that row ${row.parent} has kept.` : "";
  return el("p", {class: "note"}, `${images}${place}${parent}${row.steps ? " Squares are previews or probes." : ""}`);
}

function scoresPart(row) {
  const rows = data.changes.map(({key, label}) => [label, ...row.scores[key].map(score), signed(gain(row, key))]);
  const verdict = "accepted" in row ? el("p", {class: `verdict ${verdictOf(row)}`}, verdictText(row)) : null;
  return part("Scores", table("Scores of this row", ["", "first", "kept", "change"], rows, {numeric: true}), verdict);
}

function atomsPart(row) {
  if (!row.atoms?.length) return null;
  const rows = row.atoms.map(([question, answer, value]) => [question, answer, score(value)]);
  return part("Questions about parts", table("P(answer) for the kept image", ["question", "right answer", "P(answer)"], rows));
}

function columnsPart(row) {
  const rows = data.columns.map((name) => [name, String(row.extra[name] ?? "\u2013")]);
  if (row.cut) rows.push(["tokens cut from the prompt", String(row.cut)]);
  return rows.length ? part("Columns of the corpus", table("Columns of the corpus", ["column", "value"], rows)) : null;
}

function recipePart(row) {
  const {recipe, noise} = row;
  const facts = [
    ["method", recipe.method],
    ["seed", String(recipe.seed)],
    ["latents", recipe.shape.join(" \u00d7 ")],
    ["sampler steps", String(recipe.steps)],
    ["batch size", String(recipe.batch_size)],
    ["noise", `norm ${score(noise.norm)}, std ${score(noise.std)}, mean ${score(noise.mean)}, KS ${score(noise.ks)}`],
  ];
  const moves = recipe.gammas.map((gamma, place) => [String(recipe.rounds[place]), gamma.toFixed(4), String(recipe.indices[place])]);
  const children = [table("Recipe", ["", ""], facts)];
  if (moves.length) {
    const list = table("Moves of the noise", ["round", "\u03b3", "candidate"], moves, {numeric: true});
    children.push(el("details", {}, el("summary", {}, counted(moves.length, "move", "moves")), list));
  }
  const text = JSON.stringify(recipe);
  children.push(el("p", {}, el("button", {type: "button", onclick: (event) => copy(text, event.currentTarget)}, "Copy recipe")));
  children.push(replayPart(row));
  return part("Recipe", children);
}

function replayPart(row) {
  if (!data.replay) return el("p", {class: "note"}, "This run stored no noise, and no recipe rebuilds it: its images cannot be made again.");
  const command = `${data.replay} ${row.id}`;
  return el(
    "div",
    {class: "command"},
    el("code", {}, command),
    el("button", {type: "button", "aria-label": "Copy the replay command", onclick: (event) => copy(command, event.currentTarget)}, "Copy"),
  );
}
