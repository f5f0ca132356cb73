"use strict";
// What each layer would predict: the logit lens.

// A cell with one of the predictions at a place.
function lensCell(layer, after, rank) {
  const at = after - data.lens.first;
  if (!data.lens.ids[layer][at].length) return element("td", {}, "…"); // still being computed
  const text = data.pieces[data.lens.ids[layer][at][rank]], p = data.lens.probabilities[layer][at][rank];
  const cell = element("td", { title: `${text} ${percent(p, 2)}`, class: layer === data.n_layer - 1 ? "last" : "" },
    element("bdi", {}, text), element("span", { class: "number" }, percent(p)));
  paint(cell, shade(p));
  return cell;
}

const lensIsWhole = () => data.lens.ids.every((layer) => layer.every((top) => top.length > 0));

function lensHead(corner, names) {
  const cells = [corner, ...names].map((name) => element("th", { scope: "col" }, name));
  return element("tr", {}, ...cells);
}

let drawnLens = null; // what the large table shows, and in which colours

// All tokens and layers, the likeliest prediction of each.
function drawLens() {
  if (drawnLens?.[0] === data.lens && drawnLens[1] === scale()) return;
  drawnLens = [data.lens, scale()];
  const table = byId("lens"), layers = [...Array(data.n_layer).keys()];
  const first = data.lens.first, n = data.lens.ids[0].length; // of a long text, the tokens around the chosen one
  byId("lens-title").textContent = "The likeliest after each token, by layer" +
    (n < nTokens() ? ` (tokens ${first} to ${first + n - 1})` : "");
  table.tHead.replaceChildren(lensHead("after token", layers.map((layer) => `layer ${layer}`)));
  table.tBodies[0].replaceChildren(...data.lens.ids[0].map((_, i) => {
    const after = data.lens.first + i;
    return element("tr", { "data-token": after },
      element("th", { scope: "row", title: data.tokens[after] }, `${after} `, piece(data.tokens[after])),
      ...layers.map((layer) => lensCell(layer, after, 0)));
  }));
}

function showLayers() {
  drawLens();
  const chosen = state.token, table = byId("lens-of-token");
  const layers = [...Array(data.n_layer).keys()];
  const ranks = [...data.lens.ids[0][chosen - data.lens.first].keys()];
  say(byId("lens-of-token-title"), `The ${ranks.length} likeliest after `, token(chosen), ", by layer");
  table.tHead.replaceChildren(lensHead("after", ranks.map((rank) => `${rank + 1}.`)));
  table.tBodies[0].replaceChildren(...layers.map((layer) => element("tr", {},
    element("th", { scope: "row" }, `layer ${layer}`), ...ranks.map((rank) => lensCell(layer, chosen, rank)))));
  byId("lens").querySelectorAll("tr[data-token]").forEach((row) => {
    const shown = Number(row.dataset.token) === chosen;
    row.classList.toggle("shown", shown);
    if (shown) reveal(byId("lens-scroll"), row);
  });
}

// Scroll a box, and nothing else, until an element in it is in sight.
function reveal(box, node) {
  const top = node.offsetTop - box.querySelector("thead").offsetHeight, bottom = node.offsetTop + node.offsetHeight;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
}
