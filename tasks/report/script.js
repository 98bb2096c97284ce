"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const tip = document.getElementById("tip");

  // tabs: one panel of a group at a time
  all("button[data-tab]").forEach((button) => button.addEventListener("click", () => {
    const { tab, n } = button.dataset;
    all(`[data-tab="${tab}"]`).forEach((one) => one.classList.toggle("on", one.dataset.n === n));
  }));

  // the legend hides curves in every plot
  all("button[data-hide]").forEach((button) => button.addEventListener("click", () => {
    const hidden = button.classList.toggle("off");
    all(".series").filter((one) => one.dataset.s === button.dataset.hide)
      .forEach((one) => one.classList.toggle("hidden", hidden));
  }));

  // what a point says
  const say = (target, x, y) => {
    tip.textContent = target.dataset.t;
    tip.classList.add("on");
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - box.width - 8))}px`;
    tip.style.top = `${y - box.height - 12 > 8 ? y - box.height - 12 : y + 18}px`;
  };
  const hush = () => tip.classList.remove("on");
  all("[data-t]").forEach((point) => {
    point.addEventListener("pointerenter", (event) => say(point, event.clientX, event.clientY));
    point.addEventListener("pointerdown", (event) => say(point, event.clientX, event.clientY));
    point.addEventListener("pointerleave", hush);
    point.addEventListener("focus", () => {
      const box = point.getBoundingClientRect();
      say(point, box.right, box.top);
    });
    point.addEventListener("blur", hush);
  });
  addEventListener("scroll", hush, { passive: true });

  // the same noise in every grid
  const grids = all("figure.grid");
  const mark = (row, column) => grids.forEach((grid) => {
    const cells = grid.querySelector(".cells");
    let here = cells.querySelector(".here");
    if (row === null) { if (here) here.remove(); return; }
    if (!here) { here = document.createElement("span"); here.className = "here"; cells.append(here); }
    here.style.width = `${100 / grid.dataset.columns}%`;
    here.style.height = `${100 / grid.dataset.rows}%`;
    here.style.left = `${(100 * column) / grid.dataset.columns}%`;
    here.style.top = `${(100 * row) / grid.dataset.rows}%`;
  });
  grids.forEach((grid) => {
    const cells = grid.querySelector(".cells");
    cells.addEventListener("pointermove", (event) => {
      const box = cells.getBoundingClientRect();
      mark(Math.floor(((event.clientY - box.top) / box.height) * grid.dataset.rows),
        Math.floor(((event.clientX - box.left) / box.width) * grid.dataset.columns));
    });
    cells.addEventListener("pointerleave", () => mark(null));
  });

  // everything is open on paper
  addEventListener("beforeprint", () => all("details").forEach((one) => { one.open = true; }));
})();
