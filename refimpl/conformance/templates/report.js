"use strict";
(() => {
  const form = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const told = document.getElementById("told");
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  const apply = () => {
    const only = form.only.checked ? "violated" : "";
    const loss = form.loss.value.trim().toLowerCase();
    const dtype = form.dtype.value;
    let rows = 0;
    let total = 0;
    for (const block of all("[data-loss]")) {
      const named = block.dataset.loss.toLowerCase().includes(loss);
      const parts = all("[data-dtype]", block);
      let left = 0;
      for (const part of parts) {
        const right = named && (!dtype || part.dataset.dtype === dtype) &&
          (!only || !part.dataset.verdict || part.dataset.verdict === only);
        part.hidden = !right;
        left += right;
      }
      block.hidden = !left || (block.dataset.verdict && only && block.dataset.verdict !== only);
      if (block.tagName === "TBODY" && !block.classList.contains("missing")) {
        rows += left;
        total += parts.length;
      }
    }
    shown.value = rows === total ? `${total} rows` : `${rows} of ${total} rows`;
  };

  const read = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    const filters = ["only", "loss", "dtype"].some((name) => asked.has(name));
    if (filters) {
      form.only.checked = asked.get("only") === "violated";
      form.loss.value = asked.get("loss") || "";
      form.dtype.value = asked.get("dtype") || "";
    }
    apply();
    const goal = filters ? null : document.getElementById(location.hash.slice(1));
    const folded = goal && goal.closest("details");
    if (folded) {
      // not every browser unfolds by itself what an address points into
      folded.open = true;
      folded.scrollIntoView({ block: "start" });
      goal.focus({ preventScroll: true });
    }
  };

  const remember = () => {
    const asked = new URLSearchParams();
    if (form.only.checked) asked.set("only", "violated");
    if (form.loss.value.trim()) asked.set("loss", form.loss.value.trim());
    if (form.dtype.value) asked.set("dtype", form.dtype.value);
    history.replaceState(null, "", `#${asked}`);
    apply();
  };

  const copy = async (button) => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  // one stop of the tab key for the whole matrix; arrow keys move inside
  const fields = all(".matrix td a");
  const grid = all(".matrix tbody tr[data-dtype]").map((row) => all("td", row).map((one) => one.firstElementChild));
  fields.forEach((one, place) => { one.tabIndex = place ? -1 : 0; });
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const move = (event) => {
    const step = steps[event.key];
    if (!step) return;
    let row = grid.findIndex((one) => one.includes(event.target));
    let column = grid[row].indexOf(event.target);
    do {
      row += step[0];
      column += step[1];
    } while (grid[row] && column >= 0 && column < grid[row].length &&
      !(grid[row][column] && grid[row][column].offsetParent));
    const next = grid[row] && grid[row][column];
    if (!next) return;
    event.preventDefault();
    fields.forEach((one) => { one.tabIndex = one === next ? 0 : -1; });
    next.focus();
  };
  const tell = (event) => {
    const field = event.target.closest && event.target.closest(".matrix td a");
    told.hidden = !field;
    if (field) told.textContent = field.getAttribute("aria-label");
  };
  const matrix = document.querySelector(".matrix");
  matrix.addEventListener("keydown", (event) => { if (fields.includes(event.target)) move(event); });
  for (const name of ["mouseover", "focusin"]) matrix.addEventListener(name, tell);
  for (const name of ["mouseleave", "focusout"]) matrix.addEventListener(name, () => { told.hidden = true; });

  form.hidden = false;
  form.addEventListener("input", remember);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", read);
  for (const button of all(".copy")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
  read();
})();
