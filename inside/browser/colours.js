"use strict";
// The colours of numbers.

// Both scales get steadily lighter or darker, so they work without colour vision too: on a dark page viridis (van der
// Walt & Smith), on a light one GnBu (Brewer). In both, 0 is near the page's own colour.
const SCALES = {
  dark: ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"],
  light: ["#f7fcf0", "#e0f3db", "#ccebc5", "#a8ddb5", "#7bccc4", "#4eb3d3", "#2b8cbe", "#0868ac", "#084081"],
};
const darkPage = matchMedia("(prefers-color-scheme: dark)");
const scale = () => SCALES[darkPage.matches ? "dark" : "light"];

// The colour of a number from 0 to 1, as [red, green, blue].
function colour(value) {
  const stops = scale();
  const place = Math.min(Math.max(value, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(place), stops.length - 2);
  const channel = (hex, c) => parseInt(hex.slice(1 + 2 * c, 3 + 2 * c), 16);
  return [0, 1, 2].map((c) => {
    const low = channel(stops[i], c), high = channel(stops[i + 1], c);
    return Math.round(low + (high - low) * (place - i));
  });
}

// Probabilities are coloured by their square root, so that small ones differ: 25% is in the middle of the scale.
const shade = Math.sqrt;

// Paint an element in a number's colour, and its text in black or white, whichever stands out more. null: no colour.
function paint(node, value) {
  if (value === null) {
    node.style.backgroundColor = node.style.color = "";
    return;
  }
  const rgb = colour(value);
  const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b; // as WCAG defines it
  node.style.backgroundColor = `rgb(${rgb})`;
  node.style.color = luminance > 0.179 ? "#000" : "#fff";
}

function drawScales() {
  document.querySelectorAll(".scale").forEach((legend) => {
    legend.style.background = `linear-gradient(to right, ${scale().join(", ")})`;
  });
}
