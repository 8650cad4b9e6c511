// Name the column of each cell, for the pages on which pages.css stacks the cells.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.docutils")) {
    const names = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, i) => {
        const content = cell.querySelector(":scope > p") ?? cell;
        if (names[i] && content.textContent.trim()) cell.dataset.column = names[i];
      });
    }
  }
});
