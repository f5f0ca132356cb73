"use strict";
// One attention weight, opened: from query and key to what the head takes from the value.

// Numbers as a row of coloured cells, the strongest in full colour; the sign is in the hue.
function vector(name, numbers, most = Math.max(...numbers.map(Math.abs))) {
  const canvas = element("canvas", { class: "vector", width: numbers.length, height: 1, role: "img",
    "aria-label": `${name}: ${numbers.length} numbers` });
  const context = canvas.getContext("2d"), dark = darkPage.matches;
  numbers.forEach((x, i) => {
    context.fillStyle = x < 0 ? (dark ? "#ff8f5a" : "#c2410c") : (dark ? "#5ab0ff" : "#1d5fa8");
    context.globalAlpha = Math.abs(x) / (most || 1);
    context.fillRect(i, 0, 1, 1);
  });
  return canvas;
}

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const norm = (a) => Math.sqrt(dot(a, a));

function showWeight() {
  const body = byId("weight-body"), opened = data.opened;
  byId("weight").open = state.opened;
  if (!state.opened) return;
  if (!opened || String(opened.head) !== String(state.head)) {
    body.replaceChildren(element("p", {}, data.live ? "…" : opened ? `This file has the queries, keys and values of ` +
      `${headName(opened.head)} alone. A live page has all: python lens.py serve` :
      "This file does not have the queries, keys and values."));
    return;
  }
  const query = state.token, key = state.key ?? tokenLookedAtMost(query);
  const q = opened.q[query], k = opened.k[key], v = opened.v[key], scale = Math.sqrt(q.length);
  const scores = opened.k.slice(0, query + 1).map((each) => dot(q, each) / scale);
  const highest = Math.max(...scores), exps = scores.map((score) => Math.exp(score - highest));
  const total = exps.reduce((sum, x) => sum + x, 0), weight = exps[key] / total;
  const weighted = v.map((x) => weight * x);
  const output = v.map((_, i) => dot(exps, opened.v.slice(0, query + 1).map((each) => each[i])) / total);
  const row = (name, picture, says) => element("tr", {}, element("th", { scope: "row" }, name),
    element("td", {}, ...picture), element("td", {}, says));

  const keys = element("select", { id: "key" }, ...scores.map((_, i) =>
    element("option", { value: i, ...(i === key ? { selected: "" } : {}) },
      `${tokenName(i)}: ${percent(exps[i] / total)}`)));
  keys.addEventListener("change", () => { state.key = Number(keys.value); show(); byId("key").focus(); });
  body.replaceChildren(
    element("p", {}, element("label", {}, `How much ${tokenName(query)} looks at `, keys)),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "The weight, step by step" },
      element("table", { class: "opened", "aria-label": "From query and key to what the head takes" }, element("tbody", {},
      row("q", [vector("query", q)], `the query of ${tokenName(query)}: what it looks for`),
      row("k", [vector("key", k)], `the key of ${tokenName(key)}: what it has to find`),
      row("q · k", [vector("products", q.map((x, i) => x * k[i]))], `their products; the sum is ${dot(q, k).toFixed(2)}`),
      row("score", [], `${dot(q, k).toFixed(2)} / √${q.length} = ${scores[key].toFixed(2)}`),
      row("softmax", [], `exp(${scores[key].toFixed(2)}) / the sum of exp(score) over ${query + 1} ` +
        `token${query ? "s" : ""} = ${percent(weight)}`),
      row("v", [vector("value", v)], `the value of ${tokenName(key)}, of norm ${norm(v).toFixed(2)}`),
      row("weight · v", [vector("weighted value", weighted, Math.max(...v.map(Math.abs)))],
        `${percent(weight)} of it, of norm ${norm(weighted).toFixed(2)}`),
      row("output", [vector("output", output, Math.max(...v.map(Math.abs)))],
        `the sum of this over all ${query + 1} token${query ? "s" : ""}, of norm ${norm(output).toFixed(2)}`)))));
}

function listenToWeight() {
  byId("weight").addEventListener("toggle", () => {
    if (byId("weight").open !== state.opened) change({ opened: byId("weight").open });
  });
}
