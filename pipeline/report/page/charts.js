"use strict";
// Charts as SVG, drawn again when their width changes. First is hollow, kept is solid: colour is never alone.

// A chart that draws itself into the width it has: draw(width) returns an SVG element.
function chart(words, draw) {
  const box = el("div", {class: "chart", role: "img", "aria-label": words});
  let drawn = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width && width !== drawn) {
      drawn = width;
      box.replaceChildren(draw(width));
    }
  }).observe(box);
  return box;
}

function scale(low, high, from, to) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

// Round values between two numbers, at most `most` + 1.
function ticks(low, high, most) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / most));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((width) => span / width <= most);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + 1e-9 * span; value += step) found.push(value);
  return found;
}

function tickText(value) {
  return String(Number(value.toPrecision(6))).replace("-", MINUS);
}

function canvas(width, height) {
  return svg("svg", {width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true"});
}

function label(x, y, text, attributes) {
  return svg("text", {x, y, ...attributes}, text);
}

// Mean first and kept scores with their intervals on one axis from 0 to 1.
function intervalChart(figures, words) {
  return chart(words, (width) => {
    const picture = canvas(width, 34);
    const x = scale(0, 1, 8, width - 8);
    for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
      picture.append(svg("line", {class: "grid", x1: x(tick), x2: x(tick), y1: 2, y2: 32}));
    }
    const {first, kept} = figures;
    picture.append(svg("line", {class: "first", x1: x(first.low), x2: x(first.high), y1: 11, y2: 11}));
    picture.append(svg("circle", {class: "first hollow", cx: x(first.mean), cy: 11, r: 4.5}));
    picture.append(svg("line", {class: "kept", x1: x(kept.low), x2: x(kept.high), y1: 23, y2: 23}));
    picture.append(svg("circle", {class: "kept solid", cx: x(kept.mean), cy: 23, r: 4.5}));
    return picture;
  });
}

function axes(picture, width, height, {left, bottom, right, x, y, xTicks, yTicks}) {
  for (const tick of yTicks) {
    picture.append(svg("line", {class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick)}));
    picture.append(label(left - 6, y(tick) + 4, tickText(tick), {"text-anchor": "end"}));
  }
  for (const tick of xTicks) {
    picture.append(label(x(tick), height - bottom + 16, tickText(tick), {"text-anchor": "middle"}));
  }
}

// A curve through values at 0, 1, 2 …; the first and last have their numbers.
function curveChart(values, words, xLabel) {
  return chart(words, (width) => {
    const height = 190;
    const picture = canvas(width, height);
    const low = Math.max(0, Math.floor((Math.min(...values) - 0.02) * 10) / 10);
    const high = Math.min(1, Math.ceil((Math.max(...values) + 0.02) * 10) / 10);
    const last = values.length - 1;
    const x = scale(0, Math.max(1, last), 48, width - 40);
    const y = scale(low, high, height - 40, 20);
    const xTicks = ticks(0, Math.max(1, last), Math.min(last || 1, Math.floor(width / 60))).filter(Number.isInteger);
    axes(picture, width, height, {left: 36, bottom: 40, right: 8, x, y, xTicks, yTicks: ticks(low, high, 5)});
    picture.append(label(width / 2, height - 5, xLabel, {"text-anchor": "middle"}));
    const points = values.map((value, place) => `${x(place)},${y(value)}`).join(" ");
    picture.append(svg("polyline", {class: "kept line", points}));
    values.forEach((value, place) => {
      picture.append(svg("circle", {class: place ? "kept solid" : "first hollow", cx: x(place), cy: y(value), r: 3.5}));
    });
    // Below the first point and above the last one there is no line, since the best score never falls.
    picture.append(label(x(0) + 8, y(values[0]) + 14, score(values[0]), {class: "strong"}));
    if (last > 0) {
      const end = {"text-anchor": "end", class: "strong"};
      picture.append(label(x(last) + 4, y(values[last]) - 9, score(values[last]), end));
    }
    return picture;
  });
}

function binned(values, low, high, bins) {
  const counts = new Array(bins).fill(0);
  for (const value of values) {
    const place = Math.floor(((value - low) / (high - low || 1)) * bins);
    counts[Math.min(bins - 1, Math.max(0, place))] += 1;
  }
  return counts;
}

// How often values occur. Series: {values, kind: "first" | "kept"}; `band` marks where they are expected.
function histogram(series, words, {low, high, bins = 20, band = null, xLabel = ""}) {
  return chart(words, (width) => {
    const height = 190;
    const picture = canvas(width, height);
    const counts = series.map(({values}) => binned(values, low, high, bins));
    const most = Math.max(1, ...counts.flat());
    const x = scale(low, high, 40, width - 12);
    const y = scale(0, most, height - 40, 10);
    if (band) {
      const from = Math.max(low, band[0]);
      const to = Math.min(high, band[1]);
      if (to > from) picture.append(svg("rect", {class: "band", x: x(from), y: 10, width: x(to) - x(from), height: height - 50}));
    }
    const yTicks = ticks(0, most, 4).filter(Number.isInteger);
    axes(picture, width, height, {left: 36, bottom: 40, right: 8, x, y, xTicks: ticks(low, high, 5), yTicks});
    picture.append(label(width / 2, height - 5, xLabel, {"text-anchor": "middle"}));
    const step = (high - low) / bins;
    series.forEach(({kind}, number) => {
      counts[number].forEach((amount, bin) => {
        if (!amount) return;
        const left = x(low + bin * step) + 1;
        const wide = Math.max(1, x(low + (bin + 1) * step) - left - 1);
        picture.append(svg("rect", {class: `bar ${kind}`, x: left, y: y(amount), width: wide, height: y(0) - y(amount)}));
      });
    });
    return picture;
  });
}

// A row's scores by image: previews and probes are squares, the kept image has a ring.
function trajectoryChart(row) {
  const kept = keptImage(row);
  const words = `Score by image: ${row.trajectory.map(score).join(", ")}`;
  return chart(short(words, 400), (width) => {
    const height = 170;
    const picture = canvas(width, height);
    const values = row.trajectory;
    const x = scale(0, Math.max(1, values.length - 1), 48, width - 20);
    const y = scale(0, 1, height - 40, 14);
    const xTicks = ticks(0, Math.max(1, values.length - 1), Math.floor(width / 60)).filter(Number.isInteger);
    axes(picture, width, height, {left: 36, bottom: 40, right: 8, x, y, xTicks, yTicks: [0, 0.25, 0.5, 0.75, 1]});
    picture.append(label(width / 2, height - 5, "image", {"text-anchor": "middle"}));
    picture.append(svg("polyline", {class: "quiet line", points: values.map((value, place) => `${x(place)},${y(value)}`).join(" ")}));
    values.forEach((value, place) => {
      const isShort = row.steps && row.steps[place] !== row.steps[0];
      if (isShort) picture.append(svg("rect", {class: "quiet solid", x: x(place) - 3, y: y(value) - 3, width: 6, height: 6}));
      else picture.append(svg("circle", {class: place ? "kept solid" : "first hollow", cx: x(place), cy: y(value), r: 3.5}));
      if (place === kept) picture.append(svg("circle", {class: "kept ring", cx: x(place), cy: y(value), r: 7}));
    });
    return picture;
  });
}

function sparkline(row) {
  const width = 72;
  const height = 20;
  const picture = canvas(width, height);
  picture.classList.add("spark");
  const x = scale(0, Math.max(1, row.trajectory.length - 1), 4, width - 4);
  const y = scale(0, 1, height - 4, 4);
  picture.append(svg("polyline", {class: "quiet line", points: row.trajectory.map((value, place) => `${x(place)},${y(value)}`).join(" ")}));
  const kept = keptImage(row);
  if (kept !== null) picture.append(svg("circle", {class: "kept solid", cx: x(kept), cy: y(row.trajectory[kept]), r: 2.5}));
  return picture;
}

// Names with amounts as bars in a table; words(name) is what is shown of a name.
function bars(caption, heading, amounts, total, words = (name) => name) {
  const rows = Object.entries(amounts).map(([name, amount]) => {
    const bar = el("span", {class: "bar-track", "aria-hidden": "true"}, el("span", {class: "bar-fill"}));
    bar.firstChild.style.width = `${(100 * amount) / Math.max(1, total)}%`;
    return [words(name), bar, count(amount), percent(amount / Math.max(1, total))];
  });
  const made = table(caption, [heading, "", "rows", "share"], rows);
  made.classList.add("bars");
  return made;
}
