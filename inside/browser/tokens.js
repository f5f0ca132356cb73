"use strict";
// The text as a strip of tokens, which stays in sight. Its colours answer to the view below it.

let drawnIds = ""; // what the strip was built for

function buildStrip() {
  if (drawnIds === String(data.ids)) return;
  drawnIds = String(data.ids);
  const strip = byId("strip"), hadFocus = strip.contains(document.activeElement);
  strip.replaceChildren(...data.tokens.map((text, i) => element("button", { type: "button", role: "radio",
    class: "chip", "data-token": i, title: `token ${i}, id ${data.ids[i]}` }, piece(text), " ",
    element("span", { class: "number" }))));
  if (hadFocus) strip.querySelectorAll(".chip")[state.token].focus();
}

const chooseToken = (token) => change({ token, pointed: null, key: null, explained: null });
const shownToken = () => state.pointed ?? state.token;

// What the strip says in a view: a value from 0 to 1 for each token's colour, what stands below it, the legend.
function surprisals() {
  const most = Math.max(1, ...data.surprisal);
  return { says: ["How surprising each token is, in bits"], least: "0", most: most.toFixed(1),
    values: data.surprisal.map((bits) => bits / most), labels: data.surprisal.map((bits) => bits.toFixed(1)) };
}

// Before a token stands what it looks at, after it what looks at it: no token does both.
function looks() {
  const shown = shownToken();
  const weights = data.tokens.map((_, i) => (i <= shown ? attention(shown, i) : attention(i, shown)));
  return { says: ["Attention from ", token(shown), ", and from later tokens to it"],
    least: "0%", most: "100%", values: weights.map(shade), labels: weights.map((weight) => percent(weight)) };
}

function saliencies() {
  const { token: after, answer, values } = data.saliency, most = Math.max(...values.map(Math.abs));
  const known = data.tokens.map((_, i) => values[i] ?? null); // what comes later does nothing
  return { says: ["Effect of each token on the logit of ", piece(answer), " after ", token(after)], least: "0",
    most: `±${most.toFixed(2)}`, values: known.map((value) => (value === null ? null : Math.abs(value) / (most || 1))),
    labels: known.map((value) => (value === null ? "" : signed(value))) };
}

function stripOf(view) {
  if (view === "attention") return looks();
  return view === "next" && state.saliency && data.saliency?.token === state.token ? saliencies() : surprisals();
}

function showStrip() {
  buildStrip();
  const { says, least, most, values, labels } = stripOf(state.view);
  const chips = [...byId("strip").querySelectorAll(".chip")];
  choose(chips, state.token);
  chips.forEach((chip, i) => {
    chip.classList.toggle("shown", i === shownToken());
    chip.lastChild.textContent = labels[i] || "\u00a0"; // a space that keeps the line's height
    paint(chip, values[i]);
  });
  say(byId("strip-says"), ...says);
  byId("strip-least").textContent = least;
  byId("strip-most").textContent = most;
}

// The chosen token is in sight, however long the text is.
function revealToken() {
  const strip = byId("strip"), chip = strip.querySelectorAll(".chip")[state.token];
  if (strip.scrollHeight > strip.clientHeight) {
    strip.scrollTop = chip.offsetTop - strip.offsetTop - (strip.clientHeight - chip.offsetHeight) / 2;
  }
}

function listenToStrip() {
  arrowKeys(byId("strip"), () => 1, chooseToken);
  byId("strip").addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse" && state.view === "attention") point(tokenOf(event.target));
  });
  byId("strip").addEventListener("pointerleave", () => point(null));
  document.addEventListener("click", (event) => { // whatever has data-token stands for a token
    const token = tokenOf(event.target);
    if (token !== null) chooseToken(token);
  });
}

function tokenOf(node) {
  const holder = node.closest("[data-token]");
  return holder ? Number(holder.dataset.token) : null;
}

function point(token) {
  if (token === state.pointed) return;
  state.pointed = token;
  show();
}
