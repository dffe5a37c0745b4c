"""The model card of a pretrained model: what it was made of, what the hub reads, and no folder of the machine."""

import dataclasses
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from base import schema
from base.command_line import parse, read
from data.config import DataConfig, SourceConfig
from data.special_tokens import SpecialTokens
from pretrain.config import CardConfig, PhaseConfig, PretrainConfig
from pretrain.models import build
from pretrain.models.huggingface import encoder_config
from pretrain.optim.config import OptimizerConfig
from pretrain.publish.model_card import CardFacts, model_card
from pretrain.resume import provenance
from pretrain.starting_network import with_network
from pretrain.unused_fields import unused_fields
from tests.pretrain.test_export import CONFIG, METRICS, WORDS
from tokenizer.config import TokenizerConfig

PRIVATE = ("customers", "acme", "somebody", "bucket", "secret")


def facts_of(config: PretrainConfig, step: int = 20, **more) -> CardFacts:
    encoder = encoder_config(CONFIG.model, len(WORDS), SpecialTokens(cls=0, sep=2, pad=1, mask=4, unk=3))
    values = schema.as_dict(config)
    return CardFacts("name", encoder, build(encoder).count(), values, step, METRICS, "<mask>", False, **more)


def _card(step: int = 20, **changes) -> str:
    config = dataclasses.replace(CONFIG, **changes)
    encoder = encoder_config(CONFIG.model, len(WORDS), SpecialTokens(cls=0, sep=2, pad=1, mask=4, unk=3))
    count, values = build(encoder).count(), schema.as_dict(config)
    return model_card(CardFacts("name", encoder, count, values, step, [], "<mask>", False))


def _data_section(card: str) -> str:
    return card.split("## Data\n\n")[1].split("\n\n##")[0]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (DataConfig(source="files", path="a.txt", name="left/over", subset="no"), "- `files` `a.txt`"),
        (DataConfig(source="oscar", path="/x/no_meta", name="left/over"), "- `oscar` `no_meta`"),
        (
            DataConfig(source="hub", path="left.txt", name="owner/set", subset="no"),
            "- `hub` `owner/set` `no`",
        ),
        (DataConfig(source="tfds", path="left.txt", name="wiki40b/no"), "- `tfds` `wiki40b/no`"),
        (DataConfig(source="pydoc", path="left.txt", name="left/over"), "- `pydoc`"),
    ],
    ids=lambda value: value.source if isinstance(value, DataConfig) else "",
)
def test_the_card_names_the_data_that_was_read_and_no_other(data: DataConfig, line: str):
    card = _card(data=data)
    assert _data_section(card).splitlines()[0] == line
    assert ("datasets:\n- owner/set\n" in card) == (data.source == "hub")


def test_the_card_names_the_members_of_a_mix_with_their_weights():
    members = (
        SourceConfig(source="files", path="a.txt", name="left/over", weight=3.0),
        SourceConfig(source="hub", name="owner/set"),
    )
    section = _data_section(_card(data=DataConfig(source="mix", path="left.txt", mix=members)))
    assert section.splitlines()[:2] == [
        "- `files` `a.txt` with weight 3",
        "- `hub` `owner/set` with weight 1",
    ]


def test_the_card_names_the_data_of_the_phases_up_to_its_step():
    later = DataConfig(source="hub", name="owner/set", packing="documents")
    phases = (PhaseConfig(steps=10), PhaseConfig(steps=10, data=later))
    section = _data_section(_card(steps=None, phases=phases))
    assert "From step 0:\n\n- `files`" in section and "From step 10:\n\n- `hub` `owner/set`" in section
    assert "owner/set" not in _data_section(_card(10, steps=None, phases=phases))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("adamw", {"betas, eps": "0.8, 0.7, 1e-05"}),
        ("muon", {"betas, eps": "0.8, 0.7, 1e-05", "muon momentum": "0.6"}),
        ("adafactor", {}),
    ],
)
def test_the_card_has_the_moments_that_the_optimiser_has(name: str, rows: dict[str, str]):
    optimizer = OptimizerConfig(name=name, beta1=0.8, beta2=0.7, eps=1e-5, muon_momentum=0.6)
    found = dict(re.findall(r"\| (betas, eps|muon momentum) \| (.*) \|", _card(optimizer=optimizer)))
    assert found == rows


def test_the_card_has_the_batch_and_the_masking_of_each_phase():
    phases = (
        PhaseConfig(steps=10, seq_len=8, global_batch=2048, masking_rate=0.2),
        PhaseConfig(steps=5, seq_len=16, global_batch=512, masking_rate=0.2),
    )
    card = _card(steps=0, phases=phases)
    assert "| batch | 2,048 rows of 8 tokens, then 512 rows of 16 tokens |" in card
    assert "| masking | 20% of whole words |" in card


def test_the_card_says_which_model_the_run_began_with():
    assert " pretrained from text with Unmask starting from `model`:" in _card(init_from="/home/me/model/")
    assert "starting from" not in _card()


def test_of_relative_folders_and_addresses_only_the_last_name_is_published():
    path = "customers/acme-bank/mail/2024.jsonl,~somebody/x.txt,/home/somebody, ./acme/*.txt,https://me:secret@h/a.txt?k=secret"
    mail = SourceConfig(source="files", path="customers/acme-bank/mail/2024.jsonl")
    card = _card(
        data=DataConfig(source="files", path=path, eval_source=mail),
        tokenizer=TokenizerConfig(path="../acme/tokenizer"),
        init_from="customers/acme/base/",
        compilation_cache="/home/somebody/cache",
    )
    assert not [word for word in PRIVATE if word in card]
    assert "2024.jsonl,x.txt,~,*.txt,a.txt" in _data_section(card).splitlines()[0]
    assert "starting from `base`" in card and "base_model" not in card


def test_a_data_set_of_a_local_folder_is_no_id_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme" / "mail").mkdir(parents=True)
    (tmp_path / "acme" / "base").mkdir()
    member = SourceConfig(source="hub", name="owner/set")
    local = SourceConfig(source="hub", name="acme/mail")
    mix = DataConfig(source="mix", mix=(local, member))
    for data, hub_ids in ((DataConfig(source="hub", name="acme/mail"), None), (mix, ["owner/set"])):
        card = _card(data=data, init_from="acme/base", tokenizer=TokenizerConfig(path="owner/tokenizer"))
        assert ModelCard(card).data.datasets == hub_ids
        assert "acme" not in card and "`hub` `mail`" in card and "'owner/tokenizer'" in card
    absolute = _card(data=DataConfig(source="hub", name="/home/somebody/mail"))
    assert "somebody" not in absolute and "datasets" not in absolute


def test_which_names_were_folders_is_known_when_they_are_gone():
    config = dataclasses.replace(
        CONFIG, data=DataConfig(source="hub", name="acme/mail"), init_from="owner/base"
    )
    facts = facts_of(config, local=["data.name"])
    card = model_card(facts)
    assert "acme" not in card and ModelCard(card).data.base_model == "owner/base"


def test_the_header_is_what_the_hub_reads():
    card = ModelCard(model_card(facts_of(CONFIG, card=CardConfig("no, en", "cc-by-4.0"), documents=1234)))
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "fill-mask")
    assert (data.language, data.license) == (["no", "en"], "cc-by-4.0")
    assert data.metrics == ["loss", "perplexity", "accuracy"]
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {"loss": 2.4375, "perplexity": round(math.exp(2.4375), 4), "accuracy": 0.3125}
    assert "| held-out, last | 20 | 2.4375 | 31.2% | 11.44 |" in card.text
    assert f"Seen in training: {20 * 64 * 128:,} tokens" in card.text and "from 1,234 documents" in card.text


def test_the_scores_name_the_data_set_its_split_and_its_revision():
    data = DataConfig(source="hub", name="owner/set", subset="no", split="train", revision="v1.2")
    results = ModelCard(model_card(facts_of(dataclasses.replace(CONFIG, data=data)))).data.eval_results
    assert {
        (each.dataset_type, each.dataset_config, each.dataset_split, each.dataset_revision)
        for each in results
    } == {("owner/set", "no", "train", "v1.2")}
    assert {each.dataset_name for each in results} == {"held-out documents"}


def test_the_card_of_a_run_of_before_tells_no_change_of_a_network_that_it_was_given(tmp_path: Path):
    """Its config had fields of a network, a tokenizer and rates of dropout that were passed over."""
    given = dataclasses.replace(CONFIG, init_from="owner/base", steps=20)
    network = {"hidden_size": 64, "num_hidden_layers": 12, "hidden_dropout_prob": 0.3}
    begun = schema.as_dict(dataclasses.replace(given, steps=6, tokenizer=TokenizerConfig(vocab_size=400)))
    begun["model"] |= network | {"attention_probs_dropout_prob": 0.1}
    saved = {"config": begun, "step": 6, "steps": 6, "fingerprints": {}}
    job = SimpleNamespace(given=given, fingerprints={})
    facts = facts_of(given, past=provenance(saved, job, changed=True)["past"])
    card = model_card(facts)
    assert [line for line in card.splitlines() if line.startswith("- after step")] == [
        "- after step 6: `config.steps` from `6` to `20`"
    ]
    assert "Ctrl-C" not in card
    (tmp_path / "recipe.py").write_text(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[1])
    for part, steps in (("1", 6), ("2", 20)):
        recipe = f"--config={tmp_path / 'recipe.py'}:{part}"
        line = read(PretrainConfig, ["x", recipe], lambda values: None, unused=unused_fields)
        config = with_network(line.config, line.given, facts.encoder, pytest.fail)
        assert (config.steps, config.init_from, config.model.hidden_size) == (steps, "owner/base", 16)
        assert (config.model.hidden_dropout_prob, config.model.attention_probs_dropout_prob) == (None, None)


def test_language_and_licence_are_never_invented():
    header = _card(data=DataConfig(source="oscar", path="/x/no_meta", subset="no")).split("---")[1]
    assert "language" not in header and "license" not in header


def test_the_card_of_a_run_that_was_changed_makes_each_part_as_it_was(tmp_path: Path):
    first = dataclasses.replace(CONFIG, global_batch=32, data=DataConfig(source="files", path="acme/a.txt"))
    second = dataclasses.replace(first, optimizer=OptimizerConfig(learning_rate=5e-4))
    past = [
        {"until": 8, "config": schema.as_dict(first), "fingerprints": {"corpus 0": "one"}},
        {"until": 12, "config": schema.as_dict(second), "fingerprints": {"corpus 0": "one"}},
    ]
    card = model_card(facts_of(CONFIG, past=past, fingerprints={"corpus 0": "another"}))
    assert "- after step 8: `config.optimizer.learning_rate` from `0.0003` to `0.0005`\n" in card
    assert "- after step 12: `config.global_batch` from `32` to `64`\n" in card
    assert "- after step 12: another corpus 0\n" in card and "acme" not in card
    tokens = (12 * 32 + 8 * 64) * 128
    assert f"Seen in training: {tokens:,} tokens" in card
    recipe = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[1]
    (tmp_path / "recipe.py").write_text(recipe)
    for part, config in (("1", first), ("2", second), ("3", CONFIG)):
        found, _ = parse(
            PretrainConfig, ["x", f"--config={tmp_path / 'recipe.py'}:{part}"], lambda values: None
        )
        assert (found.global_batch, found.optimizer) == (config.global_batch, config.optimizer)
    commands = [line.split("  ")[0] for line in card.splitlines() if line.startswith("python -m pretrain --")]
    assert commands == [
        "python -m pretrain --config=recipe.py:1 --workdir=DIR",
        "python -m pretrain --config=recipe.py:2 --workdir=DIR --accept_changes",
        "python -m pretrain --config=recipe.py:3 --workdir=DIR --accept_changes",
    ]
