"use strict";
// Sorting and filtering of the page's tables. Rows beyond the first are HTML in a JSON list below their table.

// What a row is about: the cells below headings of the class "fact", not its results.
const factsOf = (heads, row) =>
  heads.map((head, column) => (head.classList.contains("fact") ? row.cells[column].textContent : "")).join(" ");
const wordsOf = (text) => text.toLowerCase().split(/[\s()[\],;:=/]+/).filter(Boolean);
// A number is found where it has the same value: 1.0 is 1, and 0.25 is not in 10.25. A text is found in a longer one.
const isIn = (word, other) => (isNaN(word) || isNaN(other) ? other.includes(word) : Number(word) === Number(other));
const matches = (query, text) => wordsOf(query).every((word) => wordsOf(text).some((other) => isIn(word, other)));

for (const table of document.querySelectorAll("table[data-rows]")) {
  const body = table.tBodies[0];
  const stored = table.parentNode.nextElementSibling;
  const total = Number(table.dataset.rows);
  const step = 30; // as FIRST_ROWS of markup.py
  const heads = Array.from(table.querySelectorAll("tr.titles th"));
  let rows = null; // made when somebody first asks
  let shown = step;
  let chosen = "";
  let order = null;
  const all = () => {
    if (!rows) {
      rows = Array.from(body.rows);
      if (stored && stored.matches("script[type='application/json']")) {
        const holder = document.createElement("tbody");
        holder.innerHTML = JSON.parse(stored.textContent).join("");
        rows.push(...holder.rows);
      }
      rows.forEach((row, at) => { row.dataset.at = at; });
    }
    return rows;
  };
  const value = (row, column) => {
    const text = (row.cells[column].childNodes[0] || {}).textContent || "";
    const number = parseFloat(text.replace("∞", "Infinity")); // of a range: its lower end
    return !Number.isNaN(number) && row.cells[column].classList.contains("number") ? number : text;
  };
  const compare = (column, sign) => (one, other) => {
    const a = value(one, column), b = value(other, column);
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    if (typeof a === "number" || typeof b === "number") return typeof a === "number" ? -1 : 1; // no value: last
    return sign * a.localeCompare(b, undefined, { numeric: true });
  };
  const draw = () => {
    let found = all().filter((row) => matches(chosen, factsOf(heads, row)));
    if (order) found = found.slice().sort(compare(order.column, order.sign));
    body.replaceChildren(...found.slice(0, shown));
    if (tools) {
      tools.count.textContent = `${Math.min(shown, found.length)} of ${found.length} rows`;
      tools.more.hidden = found.length <= shown;
    }
  };
  let tools = null;
  if (total > 12) {
    const bar = document.createElement("p");
    bar.className = "tools";
    bar.innerHTML = '<input type="search" placeholder="filter rows, such as: cohen 0.25" aria-label="filter rows">'
      + '<span></span><button type="button">Show more</button>';
    tools = { input: bar.children[0], count: bar.children[1], more: bar.children[2] };
    tools.input.addEventListener("input", () => { chosen = tools.input.value; shown = step; draw(); });
    tools.more.addEventListener("click", () => { shown += 10 * step; draw(); });
    tools.count.textContent = `${Math.min(step, total)} of ${total} rows`;
    tools.more.hidden = total <= step;
    table.parentNode.before(bar);
  }
  for (const [column, head] of heads.entries()) {
    const sort = () => {
      const first = head.classList.contains("number") ? -1 : 1; // numbers: the largest first
      const sign = order && order.column === column ? -order.sign : first;
      order = { column, sign };
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      draw();
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  }
}
