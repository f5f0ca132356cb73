"use strict";
// Putting the residual stream of a second text into the first one's pass.

const isPatched = (layer, at) => state.patches.some(([l, t]) => l === layer && t === at);

function togglePatch(layer, at) {
  const { patches } = wanted, rest = patches.filter(([l, t]) => l !== layer || t !== at);
  change({ patches: rest.length < patches.length ? rest : [...patches, [layer, at]] });
}

// 0 is the first text's run, 1 the second one's.
function broughtBack() {
  const { clean, corrupted, now } = data.patching;
  return Math.abs(clean - corrupted) < 1e-4 * Math.max(1, Math.abs(clean)) ? null : (now - corrupted) / (clean - corrupted);
}

function patchingSays() {
  const found = data.patching;
  if (!found) return ["Type a second text that differs from the first one in a few tokens."];
  if (found.error) return [found.error, " The second text’s tokens: ", ...found.tokens.flatMap((text) => [piece(text), " "])];
  const part = broughtBack(), named = [piece(data.pieces[found.answer])];
  if (found.wrong !== found.answer) named.push(" minus ", piece(data.pieces[found.wrong]));
  const says = ["The logit of ", ...named, " after ", token(state.token),
    `: ${signed(found.corrupted)} in the first text, ${signed(found.clean)} in the second`];
  if (part === null) return [...says, ". They are the same, so there is nothing to bring back: choose another answer."];
  if (!state.patches.length) return [...says, ". Choose places to patch."];
  return [...says, `, ${signed(found.now)} with ${state.patches.length} ` +
    `place${state.patches.length > 1 ? "s" : ""} patched: `, element("strong", {}, percent(part)), " of the way."];
}

function showPatching() {
  const found = data.patching, table = byId("places"), usable = found && !found.error;
  say(byId("patching-says"), ...patchingSays());
  byId("patching-says").classList.toggle("problem", Boolean(found?.error));
  byId("patching-scroll").hidden = !usable;
  if (!usable) return;
  byId("answer").placeholder = data.pieces[found.answer];
  byId("wrong").placeholder = data.pieces[found.wrong];
  buildPlaces(table);
  table.querySelectorAll("button").forEach((button) => {
    const layer = Number(button.dataset.layer), at = Number(button.dataset.at);
    const part = data.places ? data.places[layer][at] : null; // how far it alone brings the answer back
    button.setAttribute("aria-pressed", isPatched(layer, at));
    button.textContent = part === null ? "" : signed(part, 2, "");
    paint(button, part === null ? null : Math.min(1, Math.abs(part)));
  });
}

let drawnPlaces = ""; // the tokens that the table was built for

function buildPlaces(table) {
  const tokens = JSON.stringify([data.tokens, data.patching.tokens]);
  if (tokens === drawnPlaces) return;
  drawnPlaces = tokens;
  const layers = [...Array(data.n_layer).keys()];
  table.tHead.replaceChildren(lensHead("token", layers.map((layer) => `layer ${layer}`)));
  table.tBodies[0].replaceChildren(...data.tokens.map((text, at) => {
    const second = data.patching.tokens[at];
    const name = second === text ? [piece(text)] : [piece(text), " ← ", element("strong", {}, piece(second))];
    return element("tr", {}, element("th", { scope: "row" }, `${at} `, ...name), ...layers.map((layer) =>
      element("td", {}, element("button", { type: "button", class: "place", "data-layer": layer, "data-at": at,
        "aria-label": `layer ${layer}, ${tokenName(at)}` }))));
  }));
  onlyStop([...table.querySelectorAll("button")], 0);
}

function listenToPatching() {
  const table = byId("places");
  const stop = (i) => onlyStop([...table.querySelectorAll("button")], i);
  arrowKeys(table, () => data.n_layer, stop);
  table.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    stop([...table.querySelectorAll("button")].indexOf(button));
    togglePatch(Number(button.dataset.layer), Number(button.dataset.at));
  });
  byId("other").addEventListener("input", (event) => change({ other: event.target.value, patches: [] }));
  for (const name of ["answer", "wrong"]) { // what stands there is shown with · for a space, and may be typed so
    byId(name).addEventListener("input", (event) => change({ [name]: event.target.value.replaceAll("·", " ") || null }));
  }
}
