"""The notebook runs from its first cell to its last, on a few examples and a tiny model."""

import random
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.finetune.tiny_task import write_model
from tests.tiny import WORDS

NOTEBOOK = Path(__file__).parents[1] / "docs/notebook.ipynb"
ROWS = {"train": 32, "dev": 12, "test": 8}


def write_mrpc(folder: Path) -> Path:
    """Write sentence pairs in MRPC's layout: equal beginnings are paraphrases."""
    (folder / "MRPC").mkdir(parents=True)
    draw = random.Random(0)
    for split, count in ROWS.items():
        labelled = split != "test"
        lines = ["\t".join(["Quality" if labelled else "index", "#1 ID", "#2 ID", "#1 String", "#2 String"])]
        for index in range(count):
            first, second = (draw.choices(WORDS, k=6) for _ in range(2))
            second[:3] = first[:3] if index % 2 else second[:3]
            texts = (" ".join(first), " ".join(second))
            lines.append("\t".join([str(index % 2 if labelled else index), "1", "2", *texts]))
        (folder / "MRPC" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> nbformat.NotebookNode:
    home = tmp_path_factory.mktemp("notebook")
    model = write_model(home / "start", layers=1)
    book = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
        patched.setenv("HOME", str(home))
        patched.setenv("UNMASK_MODEL", str(model))
        patched.setenv("UNMASK_GLUE", str(write_mrpc(home / "glue")))
        patched.setenv("UNMASK_RUNS", str(home / "runs"))
        patched.setenv("UNMASK_QUICK", "1")
        started = {"metadata": {"path": str(NOTEBOOK.parent)}}  # where Jupyter starts a notebook
        client = nbclient.NotebookClient(book, timeout=540, resources=started)
        return client.execute()


def shown(book: nbformat.NotebookNode, beginning: str) -> str:
    """What a cell shows, by the code that it contains."""
    (cell,) = (each for each in book.cells if each.cell_type == "code" and beginning in each.source)
    return "".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs
    )


def test_the_notebook_runs_from_its_first_cell_to_its_last(executed):
    assert "{'train': 32, 'validation': 12, 'test': 8}" in shown(executed, "load_examples")
    assert "classes, 2: not_equivalent 16 (50.0%), equivalent 16 (50.0%)" in shown(executed, "unmask.look")
    assert "'accuracy_f1'" in shown(executed, "result = unmask.finetune")
    assert "balanced_accuracy" in shown(executed, "unmask.evaluate")
    assert shown(executed, "unmask.search").count("optimizer.learning_rate") >= 2
    assert "equivalent" in shown(executed, "unmask.predict")
    pictures = [
        output
        for cell in executed.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 1


def test_the_notebook_in_the_repository_has_no_outputs_and_pushes_nothing():
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    assert [cell.outputs for cell in book.cells if cell.get("outputs")] == []
    assert 'PUSH_TO = os.environ.get("UNMASK_PUSH_TO", "")' in NOTEBOOK.read_text().replace('\\"', '"')
