"use strict";
/* Paints one step's map over the picture. Outside the window there is no value, and nothing is painted. */
const stage = (() => {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  /** A step's numbers: values (share of attention) and which cells have one. */
  const read = (step, grid) => {
    if (!step || !step.map) return null;
    const raw = bytes(step.map), inside = step.inside ? bytes(step.inside) : null;
    if (raw.length !== grid * grid) return null;
    return { grid, values: Array.from(raw, (value) => (value / 255) * step.scale), inside: (i) => !inside || inside[i] === 1 };
  };
  const peak = (map) => (map ? map.values.reduce((most, value, i) => (map.inside(i) ? Math.max(most, value) : most), 0) : 0);

  const OPAQUE = 0.82;
  const smooth = (map, x, y) => {
    const left = Math.floor(x - 0.5), top = Math.floor(y - 0.5);
    const own = Math.floor(y) * map.grid + Math.floor(x);
    if (!map.inside(own)) return null;
    let sum = 0, weight = 0;
    for (const [row, column] of [[top, left], [top, left + 1], [top + 1, left], [top + 1, left + 1]]) {
      if (row < 0 || column < 0 || row >= map.grid || column >= map.grid || !map.inside(row * map.grid + column)) continue;
      const share = (1 - Math.abs(x - 0.5 - column)) * (1 - Math.abs(y - 0.5 - row));
      sum += share * map.values[row * map.grid + column];
      weight += share;
    }
    return weight > 0 ? sum / weight : map.values[own];
  };
  const cells = (map, x, y) => {
    const own = Math.floor(y) * map.grid + Math.floor(x);
    return map.inside(own) ? map.values[own] : null;
  };
  const frame = (pen, side, [left, top, right, bottom], dashed) => {
    const box = [left * side, top * side, (right - left) * side, (bottom - top) * side];
    pen.setLineDash(dashed ? [6, 5] : []);
    for (const [style, width] of [["#ffffff", dashed ? 4 : 5], [dashed ? "#b3005c" : "#10363c", dashed ? 2 : 2.5]]) {
      pen.strokeStyle = style;
      pen.lineWidth = width;
      pen.strokeRect(...box);
    }
  };
  const valueOf = (bilinear) => (bilinear ? smooth : cells);
  /** Change from one map to the next: a cell outside a window has no attention there; outside both there is no value. */
  const change = (now, before) => {
    if (!now || !before) return null;
    const value = (map, i) => (map.inside(i) ? map.values[i] : 0);
    const values = now.values.map((_, i) => value(now, i) - value(before, i));
    return { grid: now.grid, values, inside: (i) => now.inside(i) || before.inside(i) };
  };
  const fill = (pen, side, map, { most, bilinear, ramp, signed }) => {
    const image = pen.createImageData(side, side);
    const value = valueOf(bilinear);
    for (let row = 0; row < side; row += 1)
      for (let column = 0; column < side; column += 1) {
        const found = value(map, ((column + 0.5) / side) * map.grid, ((row + 0.5) / side) * map.grid);
        if (found === null) continue;
        const share = Math.max(-1, Math.min(1, found / most)), at = 4 * (row * side + column);
        image.data.set(colours.at(ramp, signed ? (1 + share) / 2 : share), at);
        image.data[at + 3] = Math.round(255 * OPAQUE * Math.abs(share));
      }
    pen.putImageData(image, 0, 0);
  };
  /** The sign of each cell that changed much, for those who cannot tell the colours and for grey paper. */
  const signs = (pen, side, map, most) => {
    const cell = side / map.grid, arm = Math.min(7, cell / 4);
    pen.setLineDash([]);
    map.values.forEach((value, i) => {
      if (!map.inside(i) || Math.abs(value) < most / 8) return;
      const x = ((i % map.grid) + 0.5) * cell, y = (Math.floor(i / map.grid) + 0.5) * cell;
      for (const [style, width] of [["#ffffff", 5], ["#111111", 2]]) {
        pen.strokeStyle = style;
        pen.lineWidth = width;
        pen.beginPath();
        pen.moveTo(x - arm, y);
        pen.lineTo(x + arm, y);
        if (value > 0) { pen.moveTo(x, y - arm); pen.lineTo(x, y + arm); }
        pen.stroke();
      }
    });
  };
  /** Paint a map (or null) with a step's window and boxes.
   * kind: "map", "change" (a map from `change`) or "outline"; most: the scale's top. */
  const paint = (canvas, map, step, { kind, most, bilinear, ramp, grid }) => {
    const side = (canvas.width = canvas.height = 384);
    const pen = canvas.getContext("2d");
    const signed = kind === "change";
    if (map && most > 0 && kind !== "outline") fill(pen, side, map, { most, bilinear, ramp: signed ? "change" : ramp, signed });
    if (step.window.length === 4) {
      const [top, left, rows, columns] = step.window.map((cell) => cell / grid);
      const edge = 2.5 / side;
      frame(pen, side, [Math.max(edge, left), Math.max(edge, top), Math.min(1 - edge, left + columns), Math.min(1 - edge, top + rows)], false);
    }
    for (const box of step.boxes) frame(pen, side, box, true);
    if (map && most > 0 && signed) signs(pen, side, map, most);
    if (map && most > 0 && kind === "outline") outline.draw(pen, side, map, valueOf(bilinear), bilinear);
  };
  return { read, peak, change, paint };
})();
