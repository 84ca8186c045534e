"""The notebooks run from top to bottom, on a run of seconds, and are committed without outputs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from helpers import ROOT, TINY
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def kernel() -> Iterator[KernelManager]:
    """One kernel for all notebooks, as importing torch takes longer than what they do."""
    manager = KernelManager(kernel_name="python3")
    yield manager
    manager.shutdown_kernel(now=True)


def execute(path: Path, parameters: str, kernel: KernelManager) -> list[nbformat.NotebookNode]:
    """Run a notebook with other parameters and no names of the one before; returns its code cells."""
    book = nbformat.read(path, as_version=4)
    (given,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    given.source = parameters
    forget = nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {ROOT / 'notebooks'}")
    book.cells.insert(0, forget)
    NotebookClient(book, timeout=300, km=kernel).execute()
    return [cell for cell in book.cells[1:] if cell.cell_type == "code"]


def said(cell: nbformat.NotebookNode) -> str:
    """All text that a cell put out."""
    texts = [one.get("text") or "".join(one.get("data", {}).get("text/markdown", "")) for one in cell.outputs]
    return "\n".join(filter(None, texts))


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)


def test_the_notebooks_run_one_after_the_other(
    trained: Path, data: Path, tmp_path: Path, kernel: KernelManager
) -> None:
    phases_alone = shutil.ignore_patterns("eval", "report*", "comparison*", "predictions", "export")
    shutil.copytree(trained, tmp_path / "demo" / "seed0", ignore=phases_alone)  # others have evaluated it already
    tiny = [*TINY, f"paths.outputs={tmp_path}", f"data.root={data}", "resume=true"]  # keeps what is trained already
    evaluation = ["figures=false", "trainer.accelerator=cpu"]
    first = execute(BOOKS[0], f"overrides = {tiny!r}\nevaluation = {evaluation!r}", kernel)
    assert "demo/finetune" in said(first[4]) and len(first[5].outputs) == 4
    run = tmp_path / "demo" / "seed0"
    second = execute(BOOKS[1], f"run = {str(run)!r}\nimages = 2", kernel)
    assert "P2' distill" in said(second[-1]) and "nan" not in said(second[-1])
    where = f"import os; os.chdir({str(tmp_path.parent)!r})"
    pattern = f"pattern = '{tmp_path.name}/demo/seed0/*/eval/test/metrics.json'"
    third = execute(BOOKS[2], f"{where}\n{pattern}\ncolumns = ['AP', 'AR_S']", kernel)
    assert "3 evaluations" in said(third[1]) and "demo/finetune | 1 |" in said(third[-1])
