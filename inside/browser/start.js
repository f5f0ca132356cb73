"use strict";
// All of it: the views, and what happens first.

const VIEWS = { next: showNext, attention: showAttention, layers: showLayers, patching: showPatching };

function show() {
  for (const name of Object.keys(VIEWS)) byId(name).hidden = name !== state.view;
  const tabs = [...document.querySelectorAll("[role=tab]:not([hidden])")];
  choose(tabs, tabs.indexOf(byId(`tab-${state.view}`)), "aria-selected");
  showTitle();
  showStrip();
  VIEWS[state.view]();
  if (data.live) showLive();
}

function showTitle() {
  byId("title").textContent = data.live ? `Inside ${data.model}` : `${data.model}: ${data.quote}`;
  document.title = `${data.model}: ${data.quote}`;
  const n = nTokens();
  byId("about").textContent = `${n} token${n > 1 ? "s" : ""}, ${data.n_layer} layers of ${data.n_head} heads, a ` +
    `vocabulary of ${data.n_vocab.toLocaleString("en")} tokens`;
  byId("changes").hidden = data.changes === "";
  byId("changes-says").textContent = `Everything below is computed ${data.changes}.`;
}

function listenToTabs() {
  const tablist = document.querySelector("[role=tablist]");
  const names = Object.keys(VIEWS);
  tablist.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) change({ view: tab.id.replace("tab-", "") });
  });
  arrowKeys(tablist, () => Infinity, (i) => change({ view: names[i] }));
}

function start() {
  document.querySelectorAll("[data-live]").forEach((node) => { node.hidden = !data.live; });
  if (!data.live) byId("tab-patching").remove();
  buildNext();
  buildParts();
  buildHeads();
  listenToStrip();
  listenToTabs();
  listenToNext();
  listenToAttention();
  listenToWeight();
  listenToPatching();
  if (data.live) startLive();
  byId("undo").addEventListener("click", () => change({ out: [], patches: [] }));
  darkPage.addEventListener("change", () => { drawScales(); show(); });
  const pinned = document.querySelector(".pinned"); // what gets the focus must not lie below it
  new ResizeObserver(() => { document.documentElement.style.scrollPaddingTop = `${pinned.offsetHeight}px`; }).observe(pinned);
  addEventListener("resize", () => { if (state.view === "attention") showPattern(); });
  drawScales();
  show();
  revealToken();
}

start();
