"use strict";
/* The open sample: one slider moves every view's map, text and numbers. */
(() => {
  const pane = document.getElementById("viewer");
  const places = new Map(list.rows.map((row, i) => [row.id, i]));
  // Reports about pictures show all latent steps of the first view side by side, each map in its step's own colour.
  const side = document.querySelector(".panes").dataset.lead === "samples";
  const wishes = { show: "map", bilinear: false, own: false, ramp: side ? colours.BY_STEP : "viridis", step: 0, side };
  let shown = "";

  const dataOf = (picture) => `data:${/^image\/(png|jpeg)$/.test(picture.media) ? picture.media : "image/jpeg"};base64,${picture.data}`;
  const imageOf = (picture) => make("img", { alt: picture.alt, src: dataOf(picture) });

  const tableOf = (label) => {
    const body = make("tbody");
    return { body, table: make("table", {}, make("caption", { class: "unseen" }, label), body) };
  };
  const fill = (body, numbers) =>
    body.replaceChildren(...Object.entries(numbers || {}).map(([name, value]) =>
      make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "number" }, written(value)))));

  /** A view's elements, and how it shows a step. */
  const viewOf = (view, sample) => {
    const box = make("section", { class: "view", "aria-label": view.name });
    box.append(make("h4", {}, view.name), make("p", { class: "answer" }, typeof view.right === "boolean" ? [verdictOf(view.right), " "] : null, view.answer));
    if (!view.steps.length) {
      if (sample.picture) box.append(make("div", { class: "stage" }, imageOf(sample.picture)));
      box.append(make("p", { class: "legend" }, "no latent steps"), make("p", { class: "all" }, view.text), factsOf(view) || "");
      return { box, show: () => [] };
    }
    const pictured = view.steps.some((step) => step.picture);
    // The whole picture stands once where steps have pictures of their own.
    const whole = !pictured || view === sample.views[0];
    const drawing = whole ? maps.of(view, sample.picture && imageOf(sample.picture)) : { parts: [], show: () => "" };
    const extra = make("div", { class: "step-picture" });
    if (pictured) box.append(extra);
    box.append(...drawing.parts);
    if (whole && !drawing.parts.length && sample.picture) box.append(make("div", { class: "stage" }, imageOf(sample.picture)));
    const lines = view.steps.map((step, i) => make("li", { style: `--hue: ${colours.ofStep(i)}` }, make("span", { class: "step" }, step.label), step.text || "–"));
    if (view.steps.some((step) => step.text)) box.append(make("ol", { class: "written" }, lines));
    const { body, table } = tableOf(`Numbers of this step: ${view.name}`);
    if (view.steps.some((step) => Object.keys(step.numbers).length)) box.append(table);
    if (view.text) {
      const label = make("summary", {}, "Everything written", make("span", { class: "unseen" }, ` by ${view.name}`));
      box.append(make("details", {}, label, make("p", { class: "all" }, view.text)));
    }
    box.append(factsOf(view) || "");
    const show = (index) => {
      const at = Math.min(index, view.steps.length - 1), step = view.steps[at];
      const seen = drawing.show(at, wishes);
      extra.replaceChildren(...(step.picture ? [imageOf(step.picture)] : []));
      lines.forEach((line, i) => (i === at ? line.setAttribute("aria-current", "step") : line.removeAttribute("aria-current")));
      fill(body, step.numbers);
      const numbers = Object.entries(step.numbers).filter(([, value]) => value !== null).slice(0, 3).map(([name, value]) => `${name} ${written(value)}`);
      return [`${view.name}, ${step.label}${numbers.length ? ": " + numbers.join(", ") : ""}${step.text ? `; “${step.text}”` : ""}.${seen ? ` ${seen}.` : ""}`];
    };
    return { box, show };
  };
  const asked = (sample) => [make("p", { class: "asked" }, sample.question), make("p", {}, "Right answer: ", make("strong", {}, sample.target || "–"))];
  /** A view with its steps side by side: the picture and what was written, coloured by step, then a map for each step. */
  const stripOf = (view, sample) => {
    const said = view.steps.map((step, i) => step.text ? [make("span", { class: "said", style: `--hue: ${colours.ofStep(i)}`, title: step.label }, step.text), " "] : []).flat();
    const whole = make("li", { class: "whole" },
      sample.picture ? make("div", { class: "stage" }, imageOf(sample.picture)) : null,
      asked(sample), make("p", { class: "answer" }, make("strong", {}, view.name), ": ", typeof view.right === "boolean" ? [verdictOf(view.right), " "] : null, view.answer),
      make("p", { class: "told" }, said), factsOf(view) || "");
    const cells = view.steps.map((step, i) => {
      const drawing = maps.of(view, sample.picture && imageOf(sample.picture));
      const { body, table } = tableOf(`Numbers of ${step.label}: ${view.name}`);
      fill(body, step.numbers);
      const cell = make("li", { style: `--hue: ${colours.ofStep(i)}` }, make("p", { class: "label" }, step.label), drawing.parts,
        step.text ? make("p", {}, make("span", { class: "said" }, step.text)) : null,
        Object.keys(step.numbers).length ? make("details", {}, make("summary", {}, "Numbers", make("span", { class: "unseen" }, ` of ${step.label}`)), table) : null);
      return { cell, drawing };
    });
    const box = make("section", { class: "view side", "aria-label": view.name }, make("ol", { class: "strip" }, whole, cells.map((one) => one.cell)));
    const show = (index) => {
      cells.forEach(({ cell, drawing }, i) => {
        drawing.show(i, wishes);
        if (i === index) cell.setAttribute("aria-current", "step"); else cell.removeAttribute("aria-current");
      });
      return [`${view.name}, ${view.steps[Math.min(index, view.steps.length - 1)].label}.`];
    };
    return { box, show };
  };
  const factsOf = (view) => {
    const { body, table } = tableOf(`Facts: ${view.name}`);
    fill(body, view.facts);
    return Object.keys(view.facts).length ? table : null;
  };

  const wish = (label, name, update) => {
    const input = make("input", { type: "checkbox" });
    input.checked = wishes[name];
    input.addEventListener("input", () => { wishes[name] = input.checked; update(); });
    return make("label", {}, input, ` ${label}`);
  };
  const showChoice = (modes, update) => {
    const buttons = modes.map((mode) => {
      const input = make("input", { type: "radio", name: "show", value: mode });
      input.checked = wishes.show === mode;
      input.addEventListener("input", () => { wishes.show = mode; update(); });
      return make("label", {}, input, ` ${maps.modes[mode]}`);
    });
    return make("fieldset", { class: "show" }, make("legend", {}, "Show"), buttons);
  };
  const rampChoice = (update) => {
    const choice = make("select", {}, colours.names.map((name) => make("option", { value: name }, name)));
    choice.value = wishes.ramp;
    choice.addEventListener("input", () => { wishes.ramp = choice.value; update(); });
    return make("label", {}, "Colours ", choice);
  };
  const sideChoice = (again) => {
    const button = make("button", { type: "button", class: "side-choice", "aria-pressed": String(wishes.side) }, "steps side by side");
    button.addEventListener("click", () => { wishes.side = !wishes.side; again(); });
    return button;
  };
  const controlsOf = (steps, modes, foldable, update, again) => {
    const slider = make("input", { type: "range", id: "step", min: "1", max: String(steps), step: "1" });
    slider.value = String(wishes.step + 1);
    slider.addEventListener("input", () => { wishes.step = Number(slider.value) - 1; update(); });
    return make("div", { class: "controls" },
      make("label", { class: "slide" }, "Latent step", slider),
      modes.length > 1 ? showChoice(modes, update) : null,
      modes.length ? [wish("smooth", "bilinear", update), wish("each step on its own scale", "own", update), rampChoice(update)] : null,
      foldable ? sideChoice(again) : null);
  };
  const besideLink = (id, by, label) => {
    const other = list.beside(id, by);
    const button = make("button", { type: "button", disabled: !other }, label);
    button.addEventListener("click", () => { location.hash = `#${encodeURIComponent(list.beside(id, by))}`; });
    return button;
  };

  const open = (id, focus) => {
    const place = places.get(id);
    if (place === undefined) return false;
    const sample = JSON.parse(document.getElementById(`sample-${place}`).textContent);
    const steps = Math.max(0, ...sample.views.map((view) => view.steps.length));
    wishes.step = Math.min(wishes.step, Math.max(0, steps - 1));
    const modes = maps.modesOf(sample);
    if (!modes.includes(wishes.show)) wishes.show = "map";
    const foldable = sample.views.find((view) => view.steps.length > 1 && view.steps.every((step) => step.map && !step.picture));
    const strip = wishes.side && foldable;
    const views = sample.views.map((view) => (strip && view === foldable ? stripOf : viewOf)(view, sample));
    const live = make("p", { class: "live", "aria-live": "polite", id: "live" });
    const update = () => {
      const said = views.flatMap((view) => view.show(wishes.step));
      live.textContent = steps ? `Step ${wishes.step + 1} of ${steps}${maps.words(wishes, modes)}. ${said.join(" ")}` : "";
      const slider = document.getElementById("step");
      if (slider) slider.setAttribute("aria-valuetext", `step ${wishes.step + 1} of ${steps}`);
    };
    const again = () => { open(id, false); pane.querySelector(".side-choice").focus(); };
    const title = make("h3", { id: "viewer-title", tabindex: "-1" }, `Sample ${sample.id}`);
    const chips = [sample.task, sample.chosen, ...Object.entries(sample.facts).map(([name, value]) => `${name}: ${written(value)}`)];
    pane.replaceChildren(
      make("div", { class: "head" }, title, make("span", {}, besideLink(id, -1, "← previous"), " ", besideLink(id, 1, "next →"), " ", make("a", { class: "to-list", href: "#list-title" }, "all samples"))),
      make("ul", { class: "chips" }, chips.filter(Boolean).map((chip) => make("li", {}, chip))),
      strip ? views[sample.views.indexOf(foldable)].box : "",
      make("div", { class: strip || !steps ? "" : "beside" }, strip ? null : make("div", {}, asked(sample)),
        steps ? make("div", {}, controlsOf(steps, modes, Boolean(foldable), update, again), live) : null),
      make("div", { class: "views" }, views.filter((_, i) => !strip || sample.views[i] !== foldable).map((view) => view.box)));
    shown = id;
    update();
    list.mark(id, focus);
    if (focus) { title.focus({ preventScroll: true }); pane.parentElement.scrollIntoView({ block: "nearest" }); }
    return true;
  };
  const fromAddress = () => {
    let id = "";
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { return false; }
    return id !== shown && open(id, true);
  };
  document.querySelector(".panes").hidden = false;
  list.start();
  if (!fromAddress() && list.rows.length) open(list.rows[0].id, false);
  window.addEventListener("hashchange", fromAddress);
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})();
