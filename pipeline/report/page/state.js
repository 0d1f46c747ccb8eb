"use strict";
// The data of the page, what can be measured of a row, and its pictures.

const isLive = document.body.hasAttribute("data-live");

let data = {};
let measures = []; // {id, label, value(row)}: what images are sorted and filtered by
let measureById = new Map();
let duplicateOf = new Map(); // position of a row -> number of its group

function setData(fresh) {
  data = fresh;
  data.rows.forEach((row, place) => {
    row.place = place;
    row.searched = `${row.prompt}\n${row.id}`.toLowerCase();
  });
  measures = allMeasures();
  measureById = new Map(measures.map((measure) => [measure.id, measure]));
  duplicateOf = new Map();
  data.duplicates.forEach((group, number) => group.forEach((place) => duplicateOf.set(place, number)));
}

function allMeasures() {
  const found = [];
  for (const {key, label} of data.changes) {
    found.push({id: `${key}.gain`, label: `${label}: change`, value: (row) => gain(row, key)});
    found.push({id: `${key}.kept`, label: `${label}: kept`, value: (row) => row.scores[key][1]});
    found.push({id: `${key}.first`, label: `${label}: first`, value: (row) => row.scores[key][0]});
  }
  if (data.rows.some((row) => row.atoms?.length)) {
    found.push({id: "atom", label: "lowest question", value: worstAtom});
  }
  found.push({id: "rounds", label: "rounds", value: (row) => row.rounds});
  found.push({id: "norm", label: "noise: norm", value: (row) => row.noise.norm});
  for (const column of data.columns) {
    if (data.rows.some((row) => typeof row.extra[column] === "number")) {
      found.push({id: `column.${column}`, label: `column ${column}`, value: (row) => numberOf(row.extra[column])});
    }
  }
  return found;
}

function numberOf(value) {
  return typeof value === "number" ? value : null;
}

function gain(row, key) {
  const [first, kept] = row.scores[key];
  return first === null || kept === null ? null : kept - first;
}

function worstAtom(row) {
  const scores = (row.atoms ?? []).map(([, , value]) => value).filter((value) => value !== null);
  return scores.length ? Math.min(...scores) : null;
}

// Which image of the trajectory was kept: the first at full steps whose score is the row's.
function keptImage(row) {
  const full = row.steps ? row.steps[0] : null;
  const place = row.trajectory.findIndex(
    (value, image) => value === row.scores.score[1] && (!row.steps || row.steps[image] === full),
  );
  return place < 0 ? null : place;
}

// The address of a row's "first" or "kept" picture; null where the run keeps no first images.
function pictureOf(row, kind) {
  if (kind === "first" && !data.has_first) return null;
  if (isLive) return `/picture/${kind}/${encodeURIComponent(row.id)}`;
  const lines = linesOf(Math.floor(row.place / data.per_block));
  if (!lines) return null;
  const [kept, first] = lines[row.place % data.per_block].split(" ");
  return `data:image/webp;base64,${kind === "first" && first ? first : kept}`;
}

const blocks = new Map();

// The lines of one block of pictures, split when one of them is first shown.
function linesOf(number) {
  if (!blocks.has(number)) {
    const block = byId(`pictures-${number}`);
    if (!block) return null; // the page is still loading
    blocks.set(number, block.textContent.split("\n"));
  }
  return blocks.get(number);
}

// An image of a row. While the page is loading its place is kept, and fillPictures shows it later.
function picture(row, kind, words) {
  const source = pictureOf(row, kind);
  const value = row.scores.score[kind === "kept" ? 1 : 0];
  const image = el("img", {alt: words ?? `${kind} image, score ${score(value)}`, decoding: "async"});
  image.width = row.size[0];
  image.height = row.size[1];
  if (Math.max(...row.size) < 128) image.classList.add("tiny");
  if (source) image.src = source;
  else image.dataset.waits = `${row.place} ${kind}`;
  return image;
}

function fillPictures() {
  for (const image of document.querySelectorAll("img[data-waits]")) {
    const [place, kind] = image.dataset.waits.split(" ");
    const source = pictureOf(data.rows[Number(place)], kind);
    if (source) {
      image.src = source;
      delete image.dataset.waits;
    }
  }
}
