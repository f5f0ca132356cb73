"use strict";
// The numbers, and what is chosen. All of the page is drawn from `data` and `state`: whatever changes the state calls
// change(). A page in a file has all the numbers, a live page those of its state, which it asks for (live.js).

let data = JSON.parse(document.getElementById("data").textContent);

const state = {
  view: "next",
  token: data.token,  // the chosen token
  pointed: null,      // the token under the mouse: its attention is shown while the mouse is there
  head: data.head ?? [0, 0], // layer and head
  key: null,          // the token looked at in the opened weight; null is the one looked at most
  out: [],            // the parts taken out, by their numbers
  temperature: 1,
  other: "",          // the second text
  patches: [],        // [layer, token], where its stream goes in
  answer: null,       // the tokens whose logits patching compares; null is the likeliest
  wrong: null,
  explained: null,    // the token whose prediction is explained, by its id; null is the likeliest
  saliency: false,    // do the tokens' colours say what matters to the prediction?
  opened: false,      // is a weight opened?
};

function change(fields) {
  if (data.live) {
    ask(fields);
  } else {
    Object.assign(state, fields);
    show();
  }
}

const nTokens = () => data.tokens.length;
const isLast = () => state.token === nTokens() - 1;

// --- parts of the model, numbered layer by layer: each its heads, then its feed-forward network ----

const nParts = () => data.n_layer * (data.n_head + 1);
const headName = ([layer, head]) => `layer ${layer}, head ${head}`;

function partName(part) {
  const layer = Math.floor(part / (data.n_head + 1)), head = part % (data.n_head + 1);
  return head < data.n_head ? headName([layer, head]) : `layer ${layer}, feed-forward network`;
}

// --- attention -----------------------------------------------------------------------------------

// A pattern is a lower triangle, row after row, in thousandths: rows of 1, 2, 3, ... numbers, so row i begins at
// 1 + 2 + ... + i.
const inTriangle = (query, key) => query * (query + 1) / 2 + key;
const rowsOf = (triangle) => (Math.sqrt(8 * triangle.length + 1) - 1) / 2;

// How much a query looks at a key in the chosen head; 0 if the key comes later.
function attention(query, key) {
  const [layer, head] = state.head;
  return key > query ? 0 : data.attention[layer][head][inTriangle(query, key)] / 1000;
}

const tokenLookedAtMost = (query) => {
  const weights = Array.from({ length: query + 1 }, (_, key) => attention(query, key));
  return weights.indexOf(Math.max(...weights));
};

// --- what comes after the chosen token ------------------------------------------------------------

// The run of the whole model, and the run with what is taken out and patched in: the same if nothing is.
function runs() {
  const { whole, now } = data.next[state.token];
  if (data.live) return { whole, now, changed: state.out.length + state.patches.length > 0 };
  const changed = state.out.length > 0 && state.token === data.without.token;
  return { whole, now: changed ? data.without.runs[state.out[0]] : whole, changed };
}

// A token's probability in a run at one of the slider's temperatures: the softmax of logits / temperature. Its
// denominator, the sum over the whole vocabulary, was computed beforehand: log_sums has its logarithm at each stop.
function probability(run, id, temperature = state.temperature) {
  return Math.exp(run.logits[id] / temperature - run.log_sums[data.temperatures.indexOf(temperature)]);
}

function likeliest(run) {
  return Object.keys(run.logits).sort((a, b) => run.logits[b] - run.logits[a]).slice(0, data.k).map(Number);
}
