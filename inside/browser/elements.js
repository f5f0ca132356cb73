"use strict";
// Making elements and groups of buttons, and how things are named.

const byId = (id) => document.getElementById(id);
const percent = (p, digits = 1) => (p === 1 ? "100" : (100 * p).toFixed(digits)) + "%";

// A number with its sign; what rounds to zero has none.
function signed(x, digits = 2, plus = "+") {
  const size = Math.abs(x).toFixed(digits);
  return Number(size) === 0 ? size : (x < 0 ? "−" : plus) + size;
}

// A token in a sentence. Its own direction of writing must not turn what stands around it: hence the two characters that
// isolate it where there are no elements, in labels and on a canvas.
const isolated = (text) => `\u2068${text}\u2069`;
const tokenName = (i) => `${isolated(data.tokens[i])} (token ${i})`;
const token = (i) => [piece(data.tokens[i]), ` (token ${i})`];

// Let an element say a sentence of strings and elements.
const say = (node, ...parts) => node.replaceChildren(...parts.flat());

// A new element. Children that are strings become text, never markup, whatever the text says.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// A piece of text in an element of its own, so that its direction does not turn what stands around it.
const piece = (text) => element("bdi", {}, text);

// Arrow keys move within a group of buttons that stands in rows of so many columns.
function arrowKeys(group, columns, choose) {
  group.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return; // Alt and an arrow is the browser's way back
    const buttons = [...group.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns(), Home: -at, End: buttons.length - 1 - at,
    };
    const to = at + steps[event.key];
    if (!(event.key in steps) || !buttons[to]) return;
    event.preventDefault();
    buttons[to].focus();
    choose(to);
  });
}

// Only one button of a group is a stop of the Tab key; the arrow keys reach the others.
function onlyStop(buttons, i) {
  buttons.forEach((button, j) => { button.tabIndex = i === j ? 0 : -1; });
}

// One button of a group of radio buttons or tabs is chosen.
function choose(buttons, i, attribute = "aria-checked") {
  onlyStop(buttons, i);
  buttons.forEach((button, j) => button.setAttribute(attribute, i === j));
}
