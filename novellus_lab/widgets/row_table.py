"""A table whose rows can be opened. Cells are set as text: nothing in them is ever markup."""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

_SCRIPT = """
function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "nvl-rows";
  el.appendChild(box);
  const open = id => { model.set("selected", id); model.save_changes(); };
  const draw = () => {
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    const columns = model.get("columns");
    for (const column of columns) {
      const cell = document.createElement("th");
      cell.textContent = column.title;
      cell.className = column.kind;
      head.appendChild(cell);
    }
    const body = table.createTBody();
    for (const row of model.get("rows")) {
      const line = body.insertRow();
      line.tabIndex = 0;
      line.dataset.id = row.id;
      line.setAttribute("aria-label", "open request " + row.id);
      row.cells.forEach((text, place) => {
        const cell = line.insertCell();
        cell.textContent = text;
        cell.title = text;
        cell.className = columns[place].kind;
      });
      line.onclick = () => open(row.id);
      line.onkeydown = e => { if (e.key === "Enter") open(row.id); };
    }
    box.replaceChildren(table);
    mark();
  };
  const mark = () => {
    for (const line of box.querySelectorAll("tbody tr"))
      line.setAttribute("aria-selected", String(line.dataset.id === model.get("selected")));
  };
  model.on("change:rows", draw);
  model.on("change:selected", mark);
  draw();
}
export default { render };
"""
_STYLE = """
.nvl-rows{overflow:auto;max-height:24rem;font-size:13px;line-height:1.45;
border:1px solid color-mix(in srgb,currentColor 15%,transparent);border-radius:8px;
color:var(--jp-content-font-color1,var(--vscode-editor-foreground,inherit));
font-family:var(--jp-content-font-family,var(--vscode-font-family,system-ui,sans-serif))}
.nvl-rows table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;margin:0}
.nvl-rows :is(th,td){padding:.35em .7em;text-align:left;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;
border-bottom:1px solid color-mix(in srgb,currentColor 12%,transparent)}
.nvl-rows th{position:sticky;top:0;font-weight:600;background:var(--jp-layout-color0,var(--vscode-editor-background,Canvas))}
.nvl-rows .number{text-align:right}.nvl-rows .text{width:100%;max-width:0}
.nvl-rows .name{max-width:15rem}
.nvl-rows tbody tr{cursor:pointer}
.nvl-rows tbody tr:is(:hover,:focus-visible){background:color-mix(in srgb,currentColor 7%,transparent)}
.nvl-rows tbody tr[aria-selected=true]{background:color-mix(in srgb,#3079f0 22%,transparent)}
"""


class RowTable(anywidget.AnyWidget):
    """Rows to choose from. `selected` is the id of the one that was opened."""

    _esm = _SCRIPT
    _css = _STYLE

    columns: Any = traitlets.List().tag(sync=True)
    """`{"title": …, "kind": "number" | "name" | "text" | ""}` each."""
    rows: Any = traitlets.List().tag(sync=True)
    """`{"id": …, "cells": […]}` each."""
    selected: Any = traitlets.Unicode("").tag(sync=True)
