"use strict";
// How numbers read, and how elements are made. Text from a run only ever becomes a text node or an attribute.

const MINUS = "\u2212";

function score(value) {
  return value === null || value === undefined ? "\u2013" : value.toFixed(3).replace("-", MINUS);
}

function signed(value) {
  if (value === null || value === undefined) return "\u2013";
  return (value > 0 ? "+" : "") + score(value);
}

function interval(estimate) {
  return `${estimate.low.toFixed(2)} to ${estimate.high.toFixed(2)}`.replaceAll("-", MINUS);
}

function count(value) {
  return value.toLocaleString("en");
}

function counted(value, one, many) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

const STOPS = {
  rounds: "all rounds used",
  target: "target score reached",
  perfect: "perfect score",
  patience: "no better image",
  budget: "budget of evaluations used",
  unusable: "last image unusable",
};

function stopText(reason) {
  return STOPS[reason] ?? reason;
}

// Our own Markdown as text and links; other marks stay as they are.
function linked(markdown) {
  return markdown.split(/(\[[^\]]+\]\(https:[^)]+\))/).map((piece) => {
    const found = /^\[([^\]]+)\]\((https:[^)]+)\)$/.exec(piece);
    return found ? el("a", {href: found[2], rel: "noreferrer"}, found[1]) : piece;
  });
}

function duration(seconds) {
  const whole = Math.round(seconds);
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes) return `${minutes} min ${whole % 60} s`;
  return `${whole} s`;
}

function short(text, limit) {
  return text.length > limit ? `${text.slice(0, limit - 1)}\u2026` : text;
}

// el("p", {class: "x", onclick: f}, "text", child): attributes by name, listeners by "on" and their event.
function el(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

function byId(id) {
  return document.getElementById(id);
}

// A table of rows of cells. A cell is text or an element; columns after the first hold numbers where `numeric`.
function table(caption, headings, rows, {numeric = false, seen = false} = {}) {
  const head = headings.map((heading, place) => el("th", {scope: "col", class: numeric && place ? "number" : null}, heading));
  const body = rows.map((cells) => {
    const [first, ...rest] = cells;
    const others = rest.map((cell) => el("td", {class: numeric ? "number" : null}, cell));
    return el("tr", {}, el("th", {scope: "row"}, first), others);
  });
  return el(
    "table",
    {},
    el("caption", {class: seen ? null : "unseen"}, caption),
    el("thead", {}, el("tr", {}, head)),
    el("tbody", {}, body),
  );
}

// A table that is moved sideways where the screen is too narrow for it.
function wide(words, content) {
  return el("div", {class: "wide", tabindex: "0", role: "group", "aria-label": words}, content);
}

// A panel with a heading, and where it needs one, a line that says how to read it.
function panel(title, note, ...children) {
  return el("section", {class: "panel"}, el("h2", {}, title), note ? el("p", {class: "note"}, note) : null, children);
}

// Say something to a screen reader.
function speak(text) {
  byId("spoken").textContent = text;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", {class: "unseen", "aria-hidden": "true"});
    area.value = text;
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const before = button.dataset.label ?? button.textContent;
  button.dataset.label = before;
  button.textContent = "Copied";
  speak("Copied");
  setTimeout(() => { button.textContent = before; }, 1500);
}
