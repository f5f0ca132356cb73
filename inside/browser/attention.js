"use strict";
// Where each token looks: the small patterns of all heads, and the chosen head's.

function buildHeads() {
  const grid = byId("heads");
  grid.style.gridTemplateColumns = `auto repeat(${data.n_head}, minmax(var(--tap), 72px))`;
  const name = (text) => element("span", { class: "name", "aria-hidden": true }, text);
  grid.append(name(""), ...Array.from({ length: data.n_head }, (_, head) => name(head)));
  for (let layer = 0; layer < data.n_layer; layer++) {
    grid.append(name(layer));
    for (let head = 0; head < data.n_head; head++) {
      const label = headName([layer, head]);
      const button = element("button", { type: "button", role: "radio", "aria-label": label, title: label },
        element("canvas"));
      button.addEventListener("click", () => chooseHead([layer, head]));
      grid.append(button);
    }
  }
  arrowKeys(grid, () => data.n_head, (i) => chooseHead([Math.floor(i / data.n_head), i % data.n_head]));
}

const chooseHead = (head) => change({ head, key: null });
const headButtons = () => [...byId("heads").querySelectorAll("button")];

// Draw a pattern, one pixel for each query and key; what is hidden stays transparent.
function drawPattern(canvas, triangle, colours) {
  const n = rowsOf(triangle);
  canvas.width = canvas.height = n;
  const context = canvas.getContext("2d"), image = context.createImageData(n, n);
  for (let query = 0; query < n; query++) {
    for (let key = 0; key <= query; key++) {
      image.data.set(colours[triangle[inTriangle(query, key)]], 4 * (query * n + key));
    }
  }
  context.putImageData(image, 0, 0);
}

let drawnPatterns = null; // what the small patterns show, and in which colours

function drawHeads() {
  const patterns = data.small ?? data.attention; // of a long text, several tokens in a pixel
  if (drawnPatterns?.[0] === patterns && drawnPatterns[1] === scale()) return;
  drawnPatterns = [patterns, scale()];
  const colours = Array.from({ length: 1001 }, (_, thousandths) => [...colour(shade(thousandths / 1000)), 255]);
  headButtons().forEach((button, i) => {
    drawPattern(button.firstChild, patterns[Math.floor(i / data.n_head)][i % data.n_head], colours);
  });
}

// Where the chosen head's pattern lies in its canvas, in CSS pixels: showPattern sets it, the mouse reads it.
const place = { left: 0, top: 0, size: 1 };

function showPattern() {
  const canvas = byId("pattern"), context = canvas.getContext("2d"), n = nTokens();
  byId("pattern-title").textContent = `Attention of ${headName(state.head)}`;
  canvas.setAttribute("aria-label", `Heat map of ${headName(state.head)}. The tokens above have the numbers of one row.`);

  const font = "12px system-ui, sans-serif";
  context.font = font;
  const labels = data.tokens.map((text) => (text.length > 12 ? text.slice(0, 11) + "…" : text));
  const margin = Math.ceil(Math.max(...labels.map((label) => context.measureText(label).width))) + 8;
  const width = canvas.clientWidth;
  const sharpness = window.devicePixelRatio; // a canvas has its own pixels: as many as the screen has
  const room = Math.min((width - margin - 2) / n, 64);
  // whole pixels leave no seams between the cells; of a very long text several cells share one
  const size = room * sharpness < 1 ? room : Math.floor(room * sharpness) / sharpness;
  Object.assign(place, { left: margin, top: margin, size });
  const side = size * n, height = margin + side + 2;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * sharpness); // also clears it
  canvas.height = Math.round(height * sharpness);
  context.scale(sharpness, sharpness);
  const style = getComputedStyle(document.documentElement);
  context.fillStyle = style.getPropertyValue("--masked");
  context.fillRect(margin, margin, side, side);
  context.imageSmoothingEnabled = size * sharpness < 1;
  const pattern = element("canvas"), [layer, head] = state.head;
  drawPattern(pattern, data.attention[layer][head],
    Array.from({ length: 1001 }, (_, thousandths) => [...colour(shade(thousandths / 1000)), 255]));
  context.drawImage(pattern, margin, margin, side, side);

  const every = Math.ceil(14 / size); // label only as many tokens as there is room for
  context.font = font;
  context.textBaseline = "middle";
  labels.forEach((label, i) => {
    const shown = i === shownToken();
    if (i % every && !shown) return;
    if (!shown && Math.abs(i - shownToken()) < every) return; // leave room for the shown one's label
    context.fillStyle = style.getPropertyValue(shown ? "--mark" : "--ink");
    const middle = margin + (i + 0.5) * size;
    context.textAlign = "right";
    context.fillText(isolated(label), margin - 5, middle);
    context.save();
    context.translate(middle, margin - 5);
    context.rotate(-Math.PI / 2);
    context.textAlign = "left";
    context.fillText(isolated(label), 0, 0);
    context.restore();
  });

  context.strokeStyle = style.getPropertyValue("--mark"); // the row where the token looks, the column who looks at it
  context.lineWidth = 2;
  const start = shownToken() * size;
  context.strokeRect(margin, margin + start, side, size);
  context.strokeRect(margin + start, margin, size, side);
}

function cellText(query, key) {
  if (key > query) return [token(query), " cannot see ", token(key), ": it comes later."].flat();
  return [token(query), " looks at ", token(key), ` with ${percent(attention(query, key))}.`].flat();
}

function attentionSays() {
  const shown = shownToken(), most = tokenLookedAtMost(shown);
  const later = data.tokens.map((_, query) => (query > shown ? attention(query, shown) : -1));
  const admirer = later.indexOf(Math.max(...later));
  const looked = shown === nTokens() - 1 ? ["No token comes after it to look at it."] : ["Of the tokens after it, ",
    token(admirer), ` looks at it most, with ${percent(later[admirer])}.`];
  return [`In ${headName(state.head)}, `, token(shown), " looks most at ", token(most),
    `, with ${percent(attention(shown, most))} of its attention. `, ...looked];
}

function showAttention() {
  drawHeads();
  const buttons = headButtons(), chosen = state.head[0] * data.n_head + state.head[1];
  choose(buttons, chosen);
  revealHead(buttons[chosen]);
  showPattern();
  say(byId("attention-says"), ...attentionSays());
  showWeight();
}

// Many heads scroll sideways on a phone: the chosen one is in sight.
function revealHead(button) {
  const box = byId("heads").parentElement, left = button.offsetLeft - 40, right = button.offsetLeft + button.offsetWidth;
  if (left < box.scrollLeft) box.scrollLeft = left;
  else if (right > box.scrollLeft + box.clientWidth) box.scrollLeft = right - box.clientWidth;
}

function listenToAttention() {
  const cellAt = (event) => {
    const [key, query] = [event.offsetX - place.left, event.offsetY - place.top].map((x) => Math.floor(x / place.size));
    return key >= 0 && key < nTokens() && query >= 0 && query < nTokens() ? [query, key] : null;
  };
  const readCell = (event) => {
    const cell = cellAt(event);
    if (event.pointerType === "mouse") point(cell && cell[0]);
    say(byId("cell"), ...(cell ? cellText(...cell) : ["\u00a0"]));
  };
  byId("pattern").addEventListener("pointermove", readCell);
  byId("pattern").addEventListener("pointerdown", readCell); // a finger taps, it does not move
  byId("pattern").addEventListener("pointerleave", () => point(null));
  byId("pattern").addEventListener("click", (event) => {
    const cell = cellAt(event);
    if (!cell) return;
    const [query, key] = cell;
    change({ token: query, pointed: null, key: key <= query ? key : null, explained: null, opened: true });
  });
}
