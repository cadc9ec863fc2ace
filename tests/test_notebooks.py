"""The notebooks of the documentation contain the outputs of one run, and still run."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from rich.text import Text

nbformat = pytest.importorskip(
    "nbformat", reason="needs the tools for notebooks: pip install 'robustsmooth[notebooks]'"
)
nbclient = pytest.importorskip(
    "nbclient", reason="needs the tools for notebooks: pip install 'robustsmooth[notebooks]'"
)

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))

PROGRESS = """
from robustsmooth.evaluation.evaluation_progress import EvaluationProgress
from robustsmooth.methods.training_progress import TrainingProgress
from robustsmooth.terminal import Terminal
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel

quiet = dict(logger=False, enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False)
trainer = pl.Trainer(max_epochs=5, accelerator="cpu", callbacks=[TrainingProgress([], every=5)], **quiet)
trainer.fit(BoringModel())
progress = EvaluationProgress("certifying", 1000, 100, "votes", Terminal())
progress._turn._spoken -= 10  # as if ten seconds had passed
for _ in range(1000):
    progress.advance(100, 1)
progress.stop()
"""


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(notebook, folder):
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()


def test_both_notebooks_are_in_the_navigation():
    assert len(NOTEBOOKS) == 2
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [path.name for path in NOTEBOOKS if f"notebooks/{path.name}" not in navigation] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_those_of_one_run_from_top_to_bottom(path):
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert len(text) < 200_000
    assert re.findall(r"/(?:root|home|tmp|work|usr|opt)/\S*", text) == []


SOURCES = [PROGRESS, *(path.read_text(encoding="utf-8") for path in NOTEBOOKS)]


@pytest.mark.parametrize("source", SOURCES, ids=["progress", *(path.stem for path in NOTEBOOKS)])
def test_every_name_that_is_imported_from_the_package_exists(source):
    cells = code(nbformat.reads(source, as_version=4)) if source.startswith("{") else [None]
    for cell in cells:
        for node in ast.walk(ast.parse(source if cell is None else cell.source)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("robustsmooth"):
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    before = [[output.output_type for output in cell.outputs] for cell in code(notebook)]
    execute(notebook, tmp_path)
    assert [[output.output_type for output in cell.outputs] for cell in code(notebook)] == before
    assert list(tmp_path.iterdir()) == []  # what it writes goes to a temporary folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_progress_in_jupyter_is_a_few_lines(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PROGRESS)])
    execute(notebook, tmp_path)
    outputs = [o for o in notebook.cells[0].outputs if o.get("name") != "stderr"]
    said = [Text.from_ansi(output.data["text/plain"]).plain for output in outputs]
    words = [line.split()[0] for line in said]
    assert list(dict.fromkeys(words)) == ["BoringModel:", "epoch", "certifying"]
    assert len(words) <= 6  # a slow machine also prints a line after some seconds
