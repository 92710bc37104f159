"use strict";
/* The table of samples: search, filters, sorting, pages. */
const list = (() => {
  const PAGE = 25;
  const rows = JSON.parse(document.getElementById("index").textContent);
  const byId = (id) => document.getElementById(id);
  // Views that nobody can call right or wrong (another map of the same answer) stand in the viewer alone.
  const judged = (view) => typeof view.right === "boolean";
  const names = [...new Set(rows.flatMap((row) => row.views.filter(judged).map((view) => view.name)))];
  const facts = [...new Set(rows.flatMap((row) => Object.keys(row.facts)))];
  const find = (row, name) => row.views.find((view) => view.name === name);
  const columns = [
    { label: "Sample", of: (row) => row.id },
    { label: "Question", of: (row) => row.question },
    ...names.map((name) => ({ label: name, mark: true, of: (row) => (find(row, name) || {}).right })),
    { label: "Task", of: (row) => row.task },
    ...facts.map((fact) => ({ label: fact, of: (row) => row.facts[fact] })),
  ];
  if (rows.some((row) => row.chosen)) columns.push({ label: "Chosen", of: (row) => row.chosen });
  const state = { sort: 0, down: false, page: 0, open: "" };
  const text = rows.map((row) =>
    [row.id, row.task, row.question, row.target, row.chosen, ...row.views.map((view) => view.answer),
     ...Object.values(row.facts)].join("\n").toLowerCase());

  const cellOf = (row) => {
    const marks = names.map((name) => (find(row, name) || {}).right);
    if (marks.some((mark) => typeof mark !== "boolean")) return "unknown";
    return marks.map(Number).join("");
  };
  const cells = names.length === 2
    ? [["", "all"], ["11", "both right"], ["10", `only ${names[0]}`], ["01", `only ${names[1]}`], ["00", "neither"]]
    : [["", "all"], ["1", "right"], ["0", "wrong"]];

  const chosen = () => {
    const words = byId("search").value.trim().toLowerCase();
    const task = byId("task").value, cell = byId("cell").value;
    return rows
      .map((row, i) => ({ row, i }))
      .filter(({ row, i }) => (!words || text[i].includes(words)) && (!task || row.task === task) && (!cell || cellOf(row) === cell));
  };
  const order = (a, b) => {
    const missing = (value) => value === null || value === undefined;
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return typeof a === "string" || typeof b === "string"
      ? String(a).localeCompare(String(b), "en", { numeric: true }) : Number(a) - Number(b);
  };
  const sorted = () => {
    const of = columns[state.sort].of, way = state.down ? -1 : 1;
    return chosen().sort((a, b) => way * order(of(a.row), of(b.row)) || a.i - b.i).map((one) => one.row);
  };

  const head = () => {
    const line = make("tr");
    columns.forEach((column, i) => {
      const active = i === state.sort;
      const sign = active ? (state.down ? "▼" : "▲") : "";
      const button = make("button", { type: "button" }, column.label, make("span", { "aria-hidden": "true" }, ` ${sign}`));
      button.addEventListener("click", () => {
        state.down = active ? !state.down : false;
        state.sort = i;
        state.page = 0;
        draw();
        byId("list").tHead.querySelectorAll("button")[i].focus();
      });
      line.append(make("th", { scope: "col", "aria-sort": active ? (state.down ? "descending" : "ascending") : "none" }, button));
    });
    byId("list").tHead.replaceChildren(line);
  };

  const draw = () => {
    const found = sorted();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    const first = state.page * PAGE;
    head();
    byId("list").tBodies[0].replaceChildren(...found.slice(first, first + PAGE).map(line));
    byId("count").textContent = `${found.length} of ${rows.length} samples`;
    byId("page").textContent = `page ${state.page + 1} of ${pages}`;
    byId("before").disabled = state.page === 0;
    byId("after").disabled = state.page >= pages - 1;
  };
  const line = (row) => {
    const open = row.id === state.open;
    const made = make("tr", { "aria-current": open ? "true" : null });
    columns.forEach((column, i) => {
      const value = column.of(row);
      if (i === 0) made.append(make("th", { scope: "row" }, make("a", { href: `#${encodeURIComponent(row.id)}` }, row.id)));
      else if (column.mark) made.append(make("td", {}, verdictOf(value)));
      else if (i === 1) made.append(make("td", { class: "question" }, make("span", {}, written(value))));
      else made.append(make("td", { class: typeof value === "number" ? "number" : "text" }, written(value)));
    });
    return made;
  };

  const start = () => {
    const width = columns.length;
    if (width > 7) byId("list").parentElement.classList.add(width > 10 ? "narrowest" : width > 8 ? "narrower" : "narrow");
    for (const task of [...new Set(rows.map((row) => row.task))].sort()) byId("task").append(make("option", { value: task }, task));
    for (const [value, label] of cells) byId("cell").append(make("option", { value }, label));
    byId("cell-label").hidden = names.length > 2;
    for (const id of ["search", "task", "cell"])
      byId(id).addEventListener("input", () => { state.page = 0; draw(); });
    byId("search").form.addEventListener("submit", (event) => event.preventDefault());
    const turn = (by) => () => { state.page += by; draw(); };
    byId("before").addEventListener("click", turn(-1));
    byId("after").addEventListener("click", turn(1));
    draw();
  };
  /** Mark the open sample, and turn to its page if the filters show it. */
  const mark = (id, turn) => {
    state.open = id;
    const at = sorted().findIndex((row) => row.id === id);
    if (turn && at >= 0) state.page = Math.floor(at / PAGE);
    draw();
  };
  const beside = (id, by) => {
    const found = sorted();
    const at = found.findIndex((row) => row.id === id);
    return (found[at + by] || {}).id;
  };
  return { rows, start, mark, beside };
})();
