"use strict";
// Starts the page, moves between its views and, where a server stands behind it, asks for news.

const VIEWS = {overview: showOverview, images: showImages, problems: showProblems, run: showRun};
const POLL = 2000; // milliseconds
let view = "overview";
let stale = new Set(Object.keys(VIEWS)); // views that show older data

function showImages() {
  showFilters();
  showGallery(made);
}

function showHead() {
  const {name, state, done, wanted: prompts, method, message} = data;
  document.title = `${name} \u00b7 noisesmith report`;
  byId("name").textContent = name;
  byId("about").textContent = `${counted(done, "row", "rows")} of ${counted(prompts, "prompt", "prompts")} \u00b7 ${method}`;
  const text = message ? `${state}: ${message}` : state;
  if (byId("state").textContent !== text) byId("state").textContent = text;
  byId("state").dataset.state = state;
  byId("count-images").textContent = count(data.rows.length);
  byId("count-problems").textContent = data.failures.total ? `${count(data.failures.total)} failed` : "";
}

function goTo(hash) {
  const name = hash.slice(1);
  if (name in VIEWS) view = name;
  for (const other of Object.keys(VIEWS)) byId(`view-${other}`).hidden = other !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  showView();
}

function showView() {
  if (!stale.has(view)) return;
  stale.delete(view);
  VIEWS[view]();
}

async function askForNews() {
  try {
    const answer = await fetch(`/data?known=${data.version}`);
    if (answer.status === 200) takeNews(await answer.json());
  } catch {
    byId("state").textContent = "the server has ended; this is its last page";
    return;
  }
  setTimeout(askForNews, POLL);
}

function takeNews(news) {
  if (news.trouble) {
    byId("state").textContent = `cannot be read at the moment: ${news.trouble}`;
    return;
  }
  setData(news);
  stale = new Set(Object.keys(VIEWS));
  const focused = document.activeElement;
  const id = focused?.closest?.("[data-id]")?.dataset.id;
  const name = focused?.id;
  showHead();
  showView();
  if (focused?.isConnected) return;
  const again = id ? document.querySelector(`#main [data-id="${id}"] .open`) : name && byId(name);
  again?.focus({preventScroll: true});
}

setData(JSON.parse(byId("data").textContent));
startDetail();
byId("more").addEventListener("click", () => {
  const first = made;
  addCards(AT_ONCE);
  byId("gallery").children[first]?.querySelector(".open").focus({preventScroll: true});
});
byId("filters").addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => { goTo(location.hash); window.scrollTo(0, 0); });
document.addEventListener("DOMContentLoaded", fillPictures);
showHead();
goTo(location.hash || "#overview");
if (isLive) setTimeout(askForNews, POLL);
