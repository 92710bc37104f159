"use strict";
/* Outlines of the places that hold a share of a map: they survive grey paper, and hide nothing of the picture. */
const outline = (() => {
  const levels = [
    { share: 0.9, dash: [1, 7], width: 3.5, halo: 6, ink: "#111111" },
    { share: 0.5, dash: [], width: 3.5, halo: 6.5, ink: "#111111" },
  ];
  /** The least value among the strongest places that together hold a share of the whole; Infinity if there is nothing. */
  const level = (values, share) => {
    const sorted = Float64Array.from(values).sort().reverse();
    const goal = share * sorted.reduce((sum, value) => sum + value, 0) * (1 - 1e-9);
    let held = 0;
    for (const value of sorted) {
      held += value;
      if (value > 0 && held >= goal) return value;
    }
    return Infinity;
  };
  /** How many cells hold a share of a map. */
  const count = (map, share) => {
    const inside = map.values.map((value, i) => (map.inside(i) ? value : 0));
    const least = level(inside, share);
    return inside.filter((value) => value >= least).length;
  };
  /** Closed lines around the true cells of a side x side mask, each a list of corners [column, row]. */
  const trace = (mask, side) => {
    const filled = (row, column) => row >= 0 && column >= 0 && row < side && column < side && mask[row * side + column];
    const ways = new Map(); // from a corner to the corners after it, with what is filled on the right
    const add = (from, to) => ways.set(String(from), [...(ways.get(String(from)) || []), to]);
    for (let row = 0; row < side; row += 1)
      for (let column = 0; column < side; column += 1) {
        if (!filled(row, column)) continue;
        if (!filled(row - 1, column)) add([column, row], [column + 1, row]);
        if (!filled(row, column + 1)) add([column + 1, row], [column + 1, row + 1]);
        if (!filled(row + 1, column)) add([column + 1, row + 1], [column, row + 1]);
        if (!filled(row, column - 1)) add([column, row + 1], [column, row]);
      }
    const loops = [];
    for (const start of [...ways.keys()])
      while (ways.get(start).length) {
        const loop = [];
        let from = start.split(",").map(Number), way = [0, 0];
        while ((ways.get(String(from)) || []).length) {
          const next = ways.get(String(from));
          // Where two cells touch at a corner alone, turn right: each keeps a line of its own.
          const turn = next.findIndex(([x, y]) => way[0] * (y - from[1]) - way[1] * (x - from[0]) > 0);
          const [to] = next.splice(Math.max(0, turn), 1);
          loop.push(from);
          way = [to[0] - from[0], to[1] - from[1]];
          from = to;
        }
        loops.push(loop);
      }
    return loops;
  };
  const label = (pen, side, words, [x, y], below) => {
    pen.font = "600 14px system-ui, sans-serif";
    const width = pen.measureText(words).width + 8, height = 18;
    const left = Math.min(side - width - 2, Math.max(2, x)), top = Math.min(side - height - 2, Math.max(2, below ? y + 5 : y - height - 5));
    pen.fillStyle = "rgba(255, 255, 255, 0.9)";
    pen.fillRect(left, top, width, height);
    pen.fillStyle = "#111111";
    pen.textBaseline = "middle";
    pen.fillText(words, left + 4, top + height / 2 + 1);
  };
  /** Draw both outlines with their labels; `value` reads the map at a place in cells. */
  const draw = (pen, side, map, value, bilinear) => {
    const fine = bilinear ? 16 * map.grid : map.grid, step = map.grid / fine, scale = side / fine;
    const values = Array.from({ length: fine * fine }, (_, i) =>
      value(map, ((i % fine) + 0.5) * step, (Math.floor(i / fine) + 0.5) * step) || 0);
    const labels = [];
    const within = (place) => Math.min(side - 3, Math.max(3, place * scale));
    for (const { share, dash, width, halo, ink } of levels) {
      const least = level(values, share);
      const loops = trace(values.map((one) => one >= least), fine);
      pen.beginPath();
      for (const loop of loops) {
        loop.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](within(x), within(y)));
        pen.closePath();
      }
      pen.lineCap = pen.lineJoin = "round";
      pen.setLineDash([]);
      pen.strokeStyle = "rgba(255, 255, 255, 0.85)";
      pen.lineWidth = halo;
      pen.stroke();
      pen.setLineDash(dash);
      pen.strokeStyle = ink;
      pen.lineWidth = width;
      pen.stroke();
      pen.lineCap = "butt";
      const longest = loops.reduce((most, loop) => (loop.length > most.length ? loop : most), []);
      if (!longest.length) continue;
      const columns = longest.map(([x]) => x), rows = longest.map(([, y]) => y);
      const low = share > 0.5; // the labels of two outlines that are alike stand at opposite ends
      labels.push([`${100 * share} %`, [Math.min(...columns) * scale, (low ? Math.max(...rows) : Math.min(...rows)) * scale], low]);
    }
    for (const [words, place, below] of labels) label(pen, side, words, place, below);
  };
  return { count, draw };
})();
