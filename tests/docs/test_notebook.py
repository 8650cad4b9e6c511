"""The notebook of the documentation runs, and shows what it gives."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs/tutorials/polystore.ipynb"


def shown(notebook: Any) -> list[list[Any]]:
    """Return what each cell shows."""
    return [
        [output.get("text") or output["data"]["text/plain"] for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_the_notebook_shows_what_it_gives_also_when_it_is_run_again() -> None:
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    before = shown(notebook)
    assert sum(map(len, before)) >= 4
    notebook.cells = [*notebook.cells, *deepcopy(notebook.cells)]  # each is run twice
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert shown(notebook) == [*before, *before]
