"""The documentation says what is so: every field is listed, every link leads somewhere, every recipe loads."""

import re
import shlex
from pathlib import Path

import pytest

from base.command_line import describe, parse
from data.labelled.tasks import TASKS
from data.prepare.__main__ import PrepareRunConfig
from finetune import config as finetuning
from finetune.config import FinetuneConfig
from finetune.unused_fields import unused_fields as unused_in_finetuning
from finetune.unused_fields import unused_in_evaluation
from launch.config import LaunchConfig, unused_by
from pretrain.config import PretrainConfig
from pretrain.models.family_fields import POSITIONS
from pretrain.phases import check_lengths, check_values, resolve_phases
from pretrain.unused_fields import unused_fields as unused_in_pretraining

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
LAUNCHES = sorted(ROOT.glob("configs/launch_*.py"))
RECIPES = sorted(
    {*ROOT.glob("configs/*.py")}
    - {
        *LAUNCHES,
        *(
            ROOT / f"configs/{name}.py"
            for name in ("__init__", "classify", "embedding", "glue", "questions", "tokens")
        ),
    }
)
FINETUNING = {
    "classify": " --config.init_from=runs/base",
    "tokens": " --config.init_from=runs/base",
    "embedding": " --config.init_from=runs/base",
    "questions": " --config.init_from=runs/base",
    "glue": ":mrpc --config.init_from=runs/base",
}
"""Recipes of fine-tuning, and what their launch line names before the workdir."""
FIELDS = {"configuration.md": PretrainConfig, "finetuning.md": FinetuneConfig}
"""Pages that list every field of a stage, and are about it alone."""
COMMANDS = {
    "pretrain": (PretrainConfig, unused_in_pretraining),
    "pretrain.plan": (PretrainConfig, unused_in_pretraining),
    "finetune": (FinetuneConfig, unused_in_finetuning),
    "finetune.evaluate": (FinetuneConfig, unused_in_evaluation),
    **{f"launch.{name}": (LaunchConfig, unused_by(name)) for name in ("tpu", "slurm", "kubernetes")},
}
"""Modules that read a config: its type, and what finds the fields of it without effect."""
PLACEHOLDERS = {"configs/X.py": "configs/quickstart.py"}


@pytest.mark.parametrize("page", FIELDS)
def test_every_field_is_listed_with_its_default(page):
    listed = (ROOT / "docs" / page).read_text().split("## Every field\n", 1)[1]
    # To bring a page up to date, put what describe(...) gives under its last heading.
    assert listed.strip() == "\n".join(f"    {line}" for line in describe(FIELDS[page])).strip()


def test_every_field_of_a_preparation_is_listed_with_its_default():
    listed = (ROOT / "docs/corpus.md").read_text().split("## Every field\n", 1)[1]
    lines = [line for line in describe(PrepareRunConfig) if line.startswith("config.prepare.")]
    assert listed.strip() == "\n".join(f"    {line}" for line in lines).strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        assert target.startswith("http") or (page.parent / file).exists(), target
        assert (
            target.startswith("http") or not anchor or anchor in anchors(page.parent / file if file else page)
        ), target


def anchors(page: Path) -> set[str]:
    """What links may name of a page: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_overrides_that_the_documentation_shows_are_fields(page):
    schemas = (
        [FIELDS[page.name]]
        if page.name in FIELDS
        else [PretrainConfig, FinetuneConfig, LaunchConfig, PrepareRunConfig]
    )
    known = {line.split("=", 1)[0] for schema in schemas for line in describe(schema)} | {"config.FIELD"}
    for name in re.findall(r"--(config\.[\w.\[\]]+)[= ]", page.read_text()):
        plain = re.sub(r"\[\d+\]\.\w+", "", name)
        assert plain in known or plain.startswith("config.data.eval_source."), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_the_documentation_shows_are_not_refused(page):
    for module, fields in configs_of_commands(page.read_text()):
        schema, unused = COMMANDS[module]
        parse(schema, [module, *fields], lambda values: None, unused=unused)


def configs_of_commands(text: str) -> list[tuple[str, list[str]]]:
    """Each command of a page that names a recipe: its module and its arguments of the config."""
    joined = re.sub(r"\\\n\s*", "", text)
    joined = re.sub(r"^ +python -m .*\n +error: ", "", joined, flags=re.MULTILINE)  # shown as mistakes
    shown = re.findall(r"^    .*python -m .*$", joined, re.MULTILINE) + re.findall(
        r"`(python -m [^`]*)`", joined
    )
    found = []
    for line in shown:
        for module, rest in re.findall(r"python -m (\S+)(.*?)(?= -- |$)", line.replace(" -- ", " --  -- ")):
            words = shlex.split(rest.partition("[--")[0], comments=True)
            fields = [word for word in words if word.startswith("--config")]
            if module in COMMANDS and fields and fields[0].startswith("--config=configs/"):
                recipe, *others = fields
                named = recipe.partition("=")[2]
                found.append((module, [f"--config={ROOT / PLACEHOLDERS.get(named, named)}", *others]))
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_every_recipe_loads_and_holds_together(recipe):
    config, _ = parse(PretrainConfig, ["pretrain", f"--config={recipe}"], lambda values: None)
    check_lengths(config)
    check_values(config)
    offset = 2 if config.model.family == "roberta" else 0
    for phase in resolve_phases(config, epoch_steps=1):
        assert phase.seq_len <= (config.model.max_position_embeddings or POSITIONS) - offset
        assert phase.global_batch % (phase.data.streams * phase.grad_accum) == 0
    assert config.model.hidden_size % config.model.num_attention_heads == 0


@pytest.mark.parametrize("file", LAUNCHES, ids=lambda file: file.stem)
def test_every_launch_config_loads_and_opens_with_its_launch_line(file):
    parse(LaunchConfig, ["launch", f"--config={file}"], lambda values: None)
    assert f"--config=configs/{file.name} " in file.read_text().split('"""')[1]


@pytest.mark.parametrize("task", [task.name for task in TASKS.values() if task.train])
def test_the_recipe_of_fine_tuning_knows_every_task(task):
    arguments = ["finetune", f"--config={ROOT}/configs/glue.py:{task}", "--config.init_from=runs/base"]
    config, _ = parse(FinetuneConfig, arguments, lambda values: None)
    finetuning.check_values(config)
    assert (config.task, config.epochs) == (task, 5 if task in ("mrpc", "wnli") else 3)


def test_the_recipe_for_files_of_ones_own_names_no_task():
    arguments = ["finetune", f"--config={ROOT}/configs/classify.py", "--config.init_from=runs/base"]
    config, _ = parse(FinetuneConfig, [*arguments, "--config.data.train=a.csv"], lambda values: None)
    finetuning.check_values(config)
    assert (config.task, config.data.source, config.data.train) == ("", "files", "a.csv")
    assert (config.data.text, config.data.label) == ("text", "label")


@pytest.mark.parametrize(
    "recipe",
    [*RECIPES, *(ROOT / f"configs/{name}.py" for name in FINETUNING)],
    ids=lambda recipe: recipe.stem,
)
def test_every_recipe_opens_with_its_launch_line_and_hardware(recipe):
    opening = recipe.read_text().split('"""')[1]
    stage = "finetune" if recipe.stem in FINETUNING else "pretrain"
    argument = FINETUNING.get(recipe.stem, "")
    assert f"python -m {stage} --config=configs/{recipe.name}{argument} --workdir=" in opening
    assert "Hardware:" in opening
