"use strict";
// Which token comes next, and what would come without parts of the model.

function buildNext() {
  byId("next-table").tBodies[0].append(...Array.from({ length: data.k }, () => element("tr", {},
    element("th", { scope: "row", class: "token" }, element("label", {},
      element("input", { type: "radio", name: "explained" }), " ", piece(""))), element("td", { class: "bar-cell" },
      element("div", { class: "bar" }), element("div", { class: "whole" })),
    element("td", { class: "number" }), element("td", { class: "number whole-column" }),
    element("td", { class: "adding" }, element("button", { type: "button", class: "small" }, "Add")))),
  element("tr", {}, element("th", { scope: "row" }, "all others"), element("td"), element("td", { class: "number" }),
    element("td", { class: "number whole-column" }), element("td", { class: "adding" })));
}

function showNext() {
  const { whole, now, changed } = runs();
  const ids = likeliest(now);
  const shown = ids.map((id) => probability(now, id)), before = ids.map((id) => probability(whole, id));
  const longest = Math.max(...shown, ...(changed ? before : []));
  const sum = (numbers) => numbers.reduce((total, p) => total + p, 0);
  const table = byId("next-table"), rows = [...table.tBodies[0].rows];
  rows.forEach((row, i) => {
    const [name, bars, p, of, adding] = row.cells, id = ids[i];
    const here = i < ids.length, last = i === rows.length - 1;
    row.hidden = !here && !last;
    p.textContent = percent(here ? shown[i] : Math.max(0, 1 - sum(shown)), 2);
    of.textContent = percent(here ? before[i] : Math.max(0, 1 - sum(before)), 2);
    if (!here) return;
    row.dataset.id = id;
    const [explained, text] = name.firstChild.children;
    text.textContent = data.pieces[id];
    explained.hidden = !data.live;
    explained.checked = id === data.explained;
    name.title = `${data.pieces[id]}, id ${id}`;
    bars.firstChild.style.width = `${100 * shown[i] / longest}%`;
    bars.lastChild.style.width = `${100 * before[i] / longest}%`;
    bars.lastChild.hidden = !changed;
    adding.firstChild.setAttribute("aria-label", `Add ${data.pieces[id]}`);
  });
  table.querySelectorAll(".whole-column").forEach((cell) => { cell.hidden = !changed; });
  table.querySelectorAll(".adding").forEach((cell) => { cell.hidden = !data.live || !isLast() || refused !== ""; });
  byId("next-column").textContent = changed ? "now" : "probability";
  say(byId("next-title"), "What comes after ", piece(data.tokens[state.token]),
    ` (token ${state.token}${isLast() ? ", the last" : ""})`);
  byId("parts").classList.toggle("stale", Boolean(data.effects?.stale));
  say(byId("explained"), piece(data.pieces[data.explained]));
  byId("saliency").checked = state.saliency;
  byId("saliency").disabled = !data.live && data.saliency.token !== state.token;
  byId("temperature-value").textContent = state.temperature.toFixed(2);
  showParts();
}

// --- taking parts out -----------------------------------------------------------------------------

function buildParts() {
  const grid = byId("parts");
  grid.style.gridTemplateColumns = `auto repeat(${data.n_head + 1}, minmax(var(--tap), 64px))`;
  const name = (text) => element("span", { class: "name", "aria-hidden": true }, text);
  grid.append(name(""), ...Array.from({ length: data.n_head }, (_, head) => name(head)), name("ffn"));
  for (let part = 0; part < nParts(); part++) {
    if (part % (data.n_head + 1) === 0) grid.append(name(part / (data.n_head + 1)));
    grid.append(element("button", { type: "button", "aria-label": partName(part), title: partName(part) }));
  }
  const buttons = partButtons();
  onlyStop(buttons, 0);
  arrowKeys(grid, () => data.n_head + 1, (i) => onlyStop(buttons, i));
  buttons.forEach((button, part) => button.addEventListener("click", () => togglePart(part)));
}

const partButtons = () => [...byId("parts").querySelectorAll("button")];

// A file knows the model without one part at a time; a live page without any of them.
function togglePart(part) {
  const { out } = data.live ? wanted : state;
  onlyStop(partButtons(), part);
  if (out.includes(part)) change({ out: out.filter((other) => other !== part) });
  else change({ out: data.live ? [...out, part] : [part] });
}

function showParts() {
  const known = data.live || state.token === data.without.token;
  const effects = data.effects?.token === state.token ? data.effects : null;
  const most = effects ? Math.max(0.1, ...effects.log_probs.map(Math.abs)) : 1;
  partButtons().forEach((button, part) => {
    const out = state.out.includes(part), effect = effects && !out ? effects.log_probs[part] : null;
    button.setAttribute("aria-pressed", out);
    button.disabled = !known;
    button.textContent = out ? "out" : effect === null ? "" : signed(effect, 1);
    paint(button, effect === null ? null : shade(Math.abs(effect) / most));
    button.title = partName(part) + (effect === null ? "" : `: ${signed(effect)}`);
  });
  say(byId("parts-says"),
    data.live ? "Choose heads and feed-forward networks (ffn) to take out, a row for each layer: their output becomes zero. " :
    known ? "Choose a head or a feed-forward network (ffn) to take out, a row for each layer: its output becomes zero. " :
    ["This file knows the model without its parts only for what comes after ", token(data.without.token), "."],
  effects ? ["The numbers: how the log-probability of ", piece(data.pieces[effects.answer]), " changes without each."] : "");
}

function listenToNext() {
  byId("temperature").addEventListener("input", (event) => {
    const distance = (t) => Math.abs(t - event.target.value);
    state.temperature = data.temperatures.reduce((a, b) => (distance(b) < distance(a) ? b : a));
    show();
  });
  byId("saliency").addEventListener("change", (event) => change({ saliency: event.target.checked }));
  const idOf = (node) => Number(node.closest("tr").dataset.id);
  byId("next-table").addEventListener("click", (event) => {
    if (event.target.closest("button")) step(idOf(event.target));
  });
  byId("next-table").addEventListener("change", (event) => change({ explained: idOf(event.target) }));
}
