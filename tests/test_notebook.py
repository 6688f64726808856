"""The notebook is its script, was run from top to bottom before it was committed, and runs."""

import re
from pathlib import Path
from typing import Any

import jupytext
import pytest
from factories import REPOSITORY
from nbclient import NotebookClient

NOTEBOOK = REPOSITORY / "examples" / "complete_the_look.ipynb"
SMALLER = "scenes, variants, epochs = 300, 1, 1"
"""What the test adds to the cell of the parameters: a training of seconds."""


@pytest.fixture
def notebook() -> Any:
    return jupytext.read(NOTEBOOK)


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures(notebook: Any) -> list[str]:
    """The data of every picture."""
    return [output["data"]["image/jpeg"] for output in outputs(notebook) if "image/jpeg" in output.get("data", {})]


def printed(notebook: Any) -> str:
    return "".join(output["text"] for output in outputs(notebook) if output["output_type"] == "stream")


def test_the_notebook_and_its_script_are_the_same(notebook: Any) -> None:
    script = jupytext.read(NOTEBOOK.with_suffix(".py"))
    told = [[(cell.cell_type, cell.source) for cell in one.cells] for one in (notebook, script)]
    assert told[0] == told[1]


def test_it_was_run_from_top_to_bottom_and_has_its_pictures(notebook: Any) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(notebook) if output["output_type"] == "error"]
    assert len(pictures(notebook)) >= 4
    assert NOTEBOOK.stat().st_size < 600_000
    assert not re.search(r"/(home|tmp|work|root)/", printed(notebook))  # of whoever ran it


@pytest.mark.long
def test_it_runs_in_any_folder(notebook: Any, tmp_path: Path) -> None:
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += f"\n{SMALLER}"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "photos", "runs"}
    assert len(pictures(notebook)) >= 4
    rows = [line.split()[-2:] for line in outputs(notebook)[-1]["text"].splitlines()]
    assert len(rows) == 5
    for ours, of_the_file in rows:
        assert float(of_the_file) == pytest.approx(float(ours), abs=0.01)
