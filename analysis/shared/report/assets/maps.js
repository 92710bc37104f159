"use strict";
/* A view's maps over the picture: as they are, as the change since the step before, or as outlines. */
const maps = (() => {
  const modes = { map: "attention", change: "change since the step before", outline: "outlines of 50 % and 90 %" };
  const FRAMES = "Solid: the window. Dashed: what the question needs.";
  const legends = {
    map: `${FRAMES} Clear: no value.`,
    change: `Red, +: more attention than at the step before. Blue, −: less. A cell outside a step's window has none there; outside both windows: clear. ${FRAMES}`,
    outline: `Heavy line: the fewest cells that hold 50 % of the attention. Dotted: 90 %. ${FRAMES.replace("Solid", "Thin solid")}`,
  };
  const percent = (share) => `${(100 * share).toPrecision(3)} %`;
  const points = (share) => `${share < 0 ? "−" : "+"}${(100 * Math.abs(share)).toPrecision(3)} points`;
  const reach = (map) => (map ? Math.max(0, ...map.values.map(Math.abs)) : 0);
  const sum = (map) => map.values.reduce((total, value, i) => total + (map.inside(i) ? value : 0), 0);

  /** What the maps of a sample can be shown as. */
  const modesOf = (sample) => {
    const counts = sample.views.map((view) => view.steps.filter((step) => step.map).length);
    if (!counts.some(Boolean)) return [];
    return Object.keys(modes).filter((mode) => mode !== "change" || counts.some((count) => count > 1));
  };
  /** What is set apart from how it starts, for the line that is read aloud. */
  const words = (wishes, offered) => offered.length
    ? [wishes.show !== "map" && modes[wishes.show], wishes.bilinear && "smooth",
       wishes.own && wishes.show !== "outline" && "each step on its own scale"].filter(Boolean).map((word) => `, ${word}`).join("")
    : "";

  const describe = (kind, step, map, shown) => {
    if (kind === "change" && map && !shown) return { label: `Change at ${step.label}: none, no step is before it`, said: "The first step has no step before it" };
    if (!shown) return { label: `Map of ${step.label}: no values`, said: "" };
    if (kind === "change") {
      const said = `A cell's change goes from ${points(Math.min(...shown.values))} to ${points(Math.max(...shown.values))}`;
      return { label: `Change at ${step.label} since the step before. ${said}`, said };
    }
    if (kind === "outline") {
      const said = `50 % lies in ${outline.count(map, 0.5)} cells, 90 % in ${outline.count(map, 0.9)}`;
      return { label: `Outlines of ${step.label}: ${said}`, said };
    }
    return { label: `Map of ${step.label}: its strongest cell has ${percent(stage.peak(map))}`, said: "" };
  };

  /** A view's elements, and how they show a step; `show` returns what to say of it. */
  const of = (view, image) => {
    const own = view.steps.map((step) => stage.read(step, view.grid));
    const changes = own.map((map, i) => (i ? stage.change(map, own[i - 1]) : null));
    const most = { map: Math.max(0, ...own.map(stage.peak)), change: Math.max(0, ...changes.map(reach)) };
    if (!own.some(Boolean) && !view.steps.some((step) => step.window.length || step.boxes.length))
      return { parts: [], show: () => "" };
    const canvas = make("canvas", { role: "img" });
    const low = make("span"), ramp = make("span", { class: "ramp", "aria-hidden": "true" }), top = make("span");
    const bar = make("p", { class: "bar" }, low, ramp, top), legend = make("p", { class: "legend" });
    const parts = [make("div", { class: "stage" }, image, canvas), own.some(Boolean) ? bar : null, legend].filter(Boolean);
    const show = (at, wishes) => {
      const kind = own.some(Boolean) ? wishes.show : "map", signed = kind === "change";
      const step = view.steps[at], map = signed ? changes[at] : own[at];
      const hues = wishes.ramp === colours.BY_STEP ? colours.ofStep(at) : wishes.ramp;
      const scale = signed ? (wishes.own ? reach(map) : most.change) : wishes.own ? stage.peak(map) : most.map;
      stage.paint(canvas, map, step, { kind, most: scale, bilinear: wishes.bilinear, ramp: hues, grid: view.grid || 1 });
      const { label, said } = describe(kind, step, own[at], map);
      canvas.setAttribute("aria-label", label);
      legend.textContent = signed && own[at] && !map ? `${said}. ${FRAMES}` : legends[kind];
      bar.hidden = kind === "outline" || (signed && !map);
      ramp.style.background = colours.ramp(signed ? "change" : hues);
      low.textContent = signed ? points(-scale) : "0";
      const whole = own[at] ? sum(own[at]) : 0;
      const even = whole > 0 ? `, ${((scale * view.grid ** 2) / whole).toPrecision(2)} × even` : "";
      top.textContent = signed ? `${points(scale)} of attention` : `${percent(scale)} of attention${even}`;
      return said;
    };
    return { parts, show };
  };
  return { modes, modesOf, words, of };
})();
