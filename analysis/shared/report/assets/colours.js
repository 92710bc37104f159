"use strict";
/* Colour maps as nine stops each (matplotlib's viridis and cividis, ColorBrewer's RdBu from blue to red, whose middle is
   0); all read right for those who see few colours. */
const colours = (() => {
  const stops = {
    viridis: ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"],
    cividis: ["00224e", "1e3a6f", "3e5170", "5a6772", "757575", "918d76", "b0a470", "d1be63", "fee838"],
    change: ["2166ac", "4393c3", "92c5de", "d1e5f0", "f7f7f7", "fddbc7", "f4a582", "d6604d", "b2182b"],
  };
  /* A colour a latent step, the first four those of the paper's Fig. 3; a step's text is marked in its map's colour. */
  const steps = ["#e0a800", "#1f77d0", "#8c4b1f", "#8a3fb8", "#d0417a", "#2a9d5c", "#0d8a8a", "#d0602a"];
  const ofStep = (i) => steps[i % steps.length];
  steps.forEach((hex) => { stops[hex] = [hex.slice(1), hex.slice(1)]; });
  const numbers = {};
  for (const [name, list] of Object.entries(stops))
    numbers[name] = list.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  /** Colour of a share between 0 and 1, as three numbers. */
  const at = (name, share) => {
    const list = numbers[name];
    const place = Math.min(1, Math.max(0, share)) * (list.length - 1);
    const low = Math.min(list.length - 2, Math.floor(place));
    return list[low].map((value, i) => Math.round(value + (list[low + 1][i] - value) * (place - low)));
  };
  const ramp = (name) => steps.includes(name) ? `linear-gradient(to right, transparent, ${name})` : `linear-gradient(to right, ${stops[name].map((hex) => "#" + hex).join(", ")})`;
  return { at, ramp, ofStep, BY_STEP: "by step", names: ["by step", "viridis", "cividis"] };
})();

/** An element with properties and children; children that are text stay text. */
const make = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) element.append(child);
  return element;
};

/** Right or wrong by sign and word. */
const verdictOf = (right) =>
  right === true ? make("span", { class: "right" }, "✓ right")
  : right === false ? make("span", { class: "wrong" }, "✗ wrong")
  : make("span", {}, "–");

const written = (value) => {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 0.001 ? String(Number(value.toPrecision(3))).replace("-", "−") : value.toExponential(1);
};
