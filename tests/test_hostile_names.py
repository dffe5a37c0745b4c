"""Every table of the terminal and every page shows the names that users give as they are written."""

import ast
import dataclasses
import io
import re

import pytest
from etils import epath
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from rich.console import Console, RenderableType

from base import terminal
from base.formatting import one_line
from data.config import DataConfig, SourceConfig
from finetune import evaluate
from finetune.glue import benchmark_table
from finetune.results import results_file
from pretrain.fill_mask import MASK, Candidate, Cloze, prediction_table
from pretrain.plan import plan_table
from pretrain.publish.model_card import model_card
from pretrain.reports.progress_line import Progress
from tests.finetune.test_benchmark import results_of, rows_of_three
from tests.hostile import NAMES
from tests.pretrain.test_export import CONFIG
from tests.pretrain.test_model_card import facts_of
from tests.pretrain.test_plan import DEBUG, checked, run_plan


def printed(shown: RenderableType) -> str:
    """What a console shows that takes texts for its markup where it may; line breaks and frames left out."""
    console = Console(file=io.StringIO(), width=1000, color_system=None)
    console.print(shown)
    return squeezed(console.file.getvalue())


def squeezed(text: str) -> str:
    return "".join(character for character in text if not character.isspace() and character not in "│┃")


SHOWN = [name for name in NAMES if name.isprintable() or name in ("\n", "a\nb", "tab\there")]


@pytest.mark.parametrize("name", SHOWN)
def test_tables_of_the_terminal_show_a_name_as_it_is_written(name: str):
    found = {
        **results_of("wnli", {"accuracy": 0.5, "loss": 1.0}),
        "title": name,
        "metric": "accuracy",
    }
    row = dataclasses.replace(
        rows_of_three()[0],
        init_from=name,
        examples={
            "train": {"count": 1, "origin": name, "official": False},
            "validation": {"count": 1, "origin": name, "official": False},
        },
    )
    one = checked(DEBUG)
    texts = {
        "results": results_file.table(found),
        "evaluate": evaluate._table(name, name, {"accuracy": 0.5}, [name], {}),
        "benchmark": benchmark_table.table([row]),
        "comparison": plan_table.comparison([run_plan(name, one), run_plan(f"x{name}", one)], 1.0),
        "plan": plan_table.report(run_plan(name, one), 1.0),
    }
    for what, shown in texts.items():
        assert squeezed(name).strip("│┃") in printed(shown), what


@pytest.mark.parametrize("name", SHOWN)
def test_texts_with_blanks_are_shown_as_they_are_written(name: str):
    example = Cloze(f"{name} {MASK} {name}", answer=name)
    text = printed(prediction_table([example], [[[Candidate(name, 0.5), Candidate("other", 0.25)]]]))
    name = one_line(name)
    assert squeezed(f"{name}____{name}") in text and squeezed(f"50.0%{name}") in text


@pytest.mark.parametrize("name", SHOWN)
def test_lines_are_printed_as_they_are_written(name: str, capsys: pytest.CaptureFixture[str]):
    terminal.console().print(f"model: {name}", soft_wrap=True)
    with Progress(3) as progress:
        progress.message(name)
    assert squeezed(capsys.readouterr().out) == squeezed(f"model: {name}{name}")


@pytest.mark.parametrize("name", NAMES)
def test_pages_of_a_benchmark_hold_a_name_of_any_kind(name: str, tmp_path):
    row = dataclasses.replace(
        rows_of_three()[0],
        init_from=f"/home/somebody/{name.replace('/', '')}",
        examples={
            "train": {"count": 1, "origin": name, "official": False},
            "validation": {"count": 1, "origin": name, "official": False},
        },
    )
    written = benchmark_table.write_reports([row], epath.Path(tmp_path))
    assert written == ["glue.json", "glue.md", "glue.png"]
    page = (tmp_path / "glue.md").read_text()
    assert "somebody" not in page and "<script>" not in page


@pytest.mark.parametrize("name", NAMES)
def test_the_card_of_a_pretrained_model_holds_a_name_of_any_kind(name: str):
    """A card is Markdown, YAML and Python."""
    path = name.replace("/", "").replace(",", "") or "x"
    config = dataclasses.replace(
        CONFIG,
        data=DataConfig(source="files", path=f"/data/{path}", eval_source=SourceConfig(subset=name)),
        init_from=f"/home/somebody/{path}",
    )
    text = model_card(dataclasses.replace(facts_of(config), name=path))
    assert ModelCard(text).data.model_name == path
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(snippet)
    assert "somebody" not in text and "<script>" not in MarkdownIt().render(ModelCard(text).text)
