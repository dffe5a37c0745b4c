"""The documentation says what is so: every field is listed, every link leads somewhere, every recipe loads."""

import re
from pathlib import Path

import pytest

from data.command_line import describe, parse
from pretrain.config import PretrainConfig
from pretrain.phases import check_lengths, check_values, resolve_phases

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
RECIPES = sorted(path for path in ROOT.glob("configs/*.py") if path.name != "__init__.py")


def test_every_field_is_listed_with_its_default():
    page = (ROOT / "docs/configuration.md").read_text()
    listed = page.split("## Every field\n", 1)[1]
    # To bring the page up to date, put what describe(PretrainConfig) gives under its last heading.
    assert listed.strip() == "\n".join(f"    {line}" for line in describe(PretrainConfig)).strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_overrides_that_the_documentation_shows_are_fields(page):
    known = {line.split("=", 1)[0] for line in describe(PretrainConfig)} | {"config.FIELD"}
    for name in re.findall(r"--(config\.[\w.\[\]]+)[= ]", page.read_text()):
        plain = re.sub(r"\[\d+\]\.\w+", "", name)
        assert plain in known or plain.startswith("config.data.eval_source."), name


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_every_recipe_loads_and_holds_together(recipe):
    config, _ = parse(PretrainConfig, ["pretrain", f"--config={recipe}"], lambda values: None)
    check_lengths(config)
    check_values(config)
    offset = 2 if config.model.family == "roberta" else 0
    for phase in resolve_phases(config, epoch_steps=1):
        assert phase.seq_len <= config.model.max_position_embeddings - offset
        assert phase.global_batch % (phase.data.streams * phase.grad_accum) == 0
    assert config.model.hidden_size % config.model.num_attention_heads == 0


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_every_recipe_opens_with_its_launch_line_and_hardware(recipe):
    opening = recipe.read_text().split('"""')[1]
    assert f"python -m pretrain --config=configs/{recipe.name} --workdir=" in opening
    assert "Hardware:" in opening


def test_the_norwegian_recipe_is_that_of_the_flax_example():
    config, _ = parse(
        PretrainConfig, ["pretrain", f"--config={ROOT}/configs/roberta_base_oscar_no.py"], lambda values: None
    )
    assert (config.seq_len, config.global_batch, config.epochs, config.tokenizer.vocab_size) == (
        128,
        1024,
        18,
        50265,
    )
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (3e-4, 0.01)
    assert (config.optimizer.beta1, config.optimizer.beta2, config.schedule.warmup_steps) == (0.9, 0.98, 1000)
    assert (config.model.hidden_size, config.model.num_hidden_layers) == (768, 12)
