"use strict";
// The live page's talk with its server. One request at a time; what is changed meanwhile waits, and the latest state is
// what is asked next.

const wanted = { ...state, text: null, steps: [] }; // what the user asked for last; `state` is what is shown
let asking = false, waiting = false;
let refused = ""; // why the text that stands there is not the one that is shown
const PAUSE = 1000; // ms between two attempts to reach a server that does not answer
const REST = 300;   // ms without a change before measuring

const AT_THE_END = { token: null, key: null, explained: null, patches: [] }; // where one is when the text changes

const post = (name, body) => fetch(name, { method: "POST", body: JSON.stringify(body) });
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// What a request holds of a state: all that is not for this page alone.
const request = ({ pointed, key, ...asked }) => asked;

async function ask(fields) {
  Object.assign(wanted, fields);
  waiting = true;
  if (asking) return;
  asking = true;
  try {
    while (waiting) await askOnce();
  } finally {
    asking = false;
  }
}

async function askOnce() {
  waiting = false;
  const sent = { ...wanted, ids: wanted.ids ?? data.ids, temperature: state.temperature };
  wanted.steps = []; // they are done once
  const answer = await answerTo("see", request(sent));
  if (answer === null) { // no server: once more, with what was changed meanwhile
    wanted.steps = [...sent.steps, ...wanted.steps];
    waiting = true;
    await pause(PAUSE);
  } else if (answer.error !== undefined) {
    if (sent.text !== null) refused = `${answer.error}. Below is still the text before it.`;
    problem(sent.text !== null ? refused : answer.error);
    if (!waiting) Object.assign(wanted, state, { text: null, ids: data.ids, steps: [] }); // the rest goes on
    measureSoon();
    show();
  } else {
    if (sent.text !== null) refused = "";
    problem(refused);
    take(answer, sent);
  }
}

// What the server answers: its data, {error} where it refuses, null where it is not there.
async function answerTo(name, body) {
  const slow = setTimeout(() => document.body.classList.add("slow"), 500);
  try {
    const response = await post(name, body);
    if (response.status === 403) {
      problem("Another server answers at this address: open the address that it printed. What you typed stays here.");
      return null;
    }
    const text = await response.text();
    if (!response.ok) return { error: text };
    return name === "see" ? JSON.parse(text) : { text };
  } catch (error) {
    problem("The server is not responding. What you typed stays here, and the page continues when the server is back.");
    return null;
  } finally {
    clearTimeout(slow);
    document.body.classList.remove("slow");
  }
}

function take(answer, sent) {
  const { text, ids, steps, temperature, ...shown } = sent;
  data = answer;
  const newText = text !== null || steps.length > 0;
  Object.assign(state, shown, { token: data.token, pointed: null });
  if (wanted.text === text) { // nothing was typed meanwhile
    wanted.text = null;
    if (steps.length) byId("text").value = data.text;
  }
  wanted.ids = data.ids;
  measureSoon();
  show();
  if (newText) revealToken();
}

// What takes long is measured after a rest; the server stops measuring when something else is asked.
const measured = { key: "", values: {} }; // what was measured last, and for which state
let resting, measuring; // the timer; what the server is measuring

// What the measurements of a view depend on; null where there are none.
function measuredKey({ view, token, out, other, patches, answer, wrong, explained }) {
  if (view === "next") return JSON.stringify([data.ids, token, explained, out, patches, patches.length ? other : ""]);
  if (view === "layers" && lensIsWhole()) return null;
  if (view === "layers") return JSON.stringify([view, data.ids, token, out, patches, patches.length ? other : ""]);
  return view === "patching" && other ? JSON.stringify([view, data.ids, token, out, other, answer, wrong]) : null;
}

const addMeasured = () => Object.assign(data, measured.values, { pieces: { ...data.pieces, ...measured.values.pieces } });

function measureSoon() {
  const key = measuredKey(state);
  clearTimeout(resting);
  if (key === null) return;
  if (key === measured.key) {
    addMeasured();
    return;
  }
  const before = measured.values.effects;
  if (state.view === "next" && before?.token === data.token && before.answer === data.explained) {
    data.effects = { ...before, stale: true };
  }
  resting = setTimeout(async () => {
    if (asking || document.hidden || key === measuring) return;
    measuring = key;
    const response = await post("measure", request({ ...state, ids: data.ids, text: null, steps: [] })).catch(() => null);
    if (key === measuring) measuring = null;
    const values = response?.ok ? await response.json() : {};
    if (key !== measuredKey(state)) return; // it is no longer shown
    if (values.interrupted) {
      measureSoon();
    } else if (response?.ok) {
      Object.assign(measured, { key, values });
      addMeasured();
      show();
    }
  }, REST);
}

// A step would put another text in the place of what is typed: not where that was refused.
const step = (name) => refused === "" && ask({ steps: [...wanted.steps, name], ...AT_THE_END });

function problem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = text === "";
}

async function savePage() {
  byId("save").disabled = true;
  const answer = await answerTo("save", request({ ...wanted, ids: data.ids, text: null, steps: [] }));
  byId("save").disabled = false;
  if (answer === null) return;
  problem(answer.error ?? refused);
  if (answer.error !== undefined) return;
  const address = URL.createObjectURL(new Blob([answer.text], { type: "text/html" }));
  element("a", { href: address, download: "page.html" }).click();
  URL.revokeObjectURL(address);
}

function showLive() {
  for (const name of ["text", "other"]) sessionStorage.setItem(name, byId(name).value); // typed texts survive a reload
  byId("count").textContent = `${nTokens()} of ${data.n_ctx} tokens`;
  for (const name of ["likeliest", "sample", "back"]) byId(name).disabled = refused !== "";
  if (data.text === "") byId("back").disabled = true;
}

function startLive() {
  byId("other").value = state.other = sessionStorage.getItem("other") ?? "";
  Object.assign(wanted, state, { ids: data.ids });
  const text = sessionStorage.getItem("text") ?? data.text, typed = (value) =>
    ask({ text: value, steps: [], ...AT_THE_END });
  byId("text").value = text;
  if (text !== data.text) typed(text);
  byId("text").addEventListener("input", (event) => typed(event.target.value));
  for (const name of ["likeliest", "sample", "back"]) byId(name).addEventListener("click", () => step(name));
  byId("save").addEventListener("click", savePage);
  document.addEventListener("visibilitychange", measureSoon); // nothing is measured for a hidden page
  measureSoon();
}
