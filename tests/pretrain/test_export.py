"""The export command: a checkpoint in, a folder that transformers loads out, whole or not at all."""

import ast
import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from etils import epath
from huggingface_hub import ModelCard
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from base import schema
from base.command_line import parse
from base.errors import UserError
from data.config import DataConfig
from pretrain import export as export_module
from pretrain.config import CardConfig, MaskingConfig, ModelConfig, PretrainConfig
from pretrain.export import export, main
from pretrain.models import build
from pretrain.models.huggingface import config_dict, encoder_config, load_pretrained
from pretrain.models.vocabulary import with_rows
from pretrain.phases import check_values
from pretrain.reports.end_summary import LOSS_CURVE
from pretrain.runtime.checkpointer import Checkpointer
from tokenizer.load import load as load_tokenizer

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnop"]
CONFIG = PretrainConfig(
    steps=20,
    global_batch=64,
    data=DataConfig(
        source="files", path="/home/somebody/corpus/no-*.txt, gs://bucket/more.txt", packing="documents"
    ),
    model=ModelConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=14,
    ),
    masking=MaskingConfig(whole_word=True),
)
METRICS = [
    {"step": 10, "train/loss": 2.5, "train/accuracy": 0.25, "eval/loss": 2.25, "eval/accuracy": 0.375},
    {"step": 20, "train/loss": 2.0, "train/accuracy": 0.5, "eval/loss": 2.4375, "eval/accuracy": 0.3125},
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: checkpoints of steps 10 (the best) and 20, whose params differ."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens(WORDS[:5])
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))

    encoder = encoder_config(CONFIG.model, len(WORDS), load_tokenizer(str(folder / "tokenizer")).special)
    (folder / "model.json").write_text(json.dumps(config_dict(encoder)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    checkpointer = Checkpointer(folder, keep=2)
    for step in (10, 20):
        params = jax.jit(build(encoder).init)(jax.random.key(step))
        run = {"config": schema.as_dict(CONFIG), "best": {"step": 10, "eval/loss": 2.25}}
        checkpointer.save(step, {"params": params, "step": np.int32(step)}, run)
    checkpointer.close()
    return folder


def _params(workdir: Path, step: int):
    """A checkpoint's network and params without the vocabulary's padding."""
    special = load_tokenizer(str(workdir / "tokenizer")).special
    padded = encoder_config(CONFIG.model, len(WORDS), special)
    params = jax.jit(build(padded).init)(jax.random.key(step))
    # A folder does not say how the network is run; these are the values where nothing says it.
    model = dataclasses.replace(CONFIG.model, vocab_multiple=1, scan_unroll=1, dropout_bits=16)
    encoder = encoder_config(model, len(WORDS), special)
    return encoder, with_rows(padded, params, len(WORDS))


@pytest.mark.parametrize(("step", "expected"), [("last", 20), ("best", 10), ("10", 10)])
def test_the_checkpoint_asked_for_is_the_one_exported(
    workdir: Path, tmp_path: Path, step: str, expected: int
):
    out = tmp_path / "out"
    assert export(epath.Path(workdir), epath.Path(out), step=step).step == expected
    encoder, params = _params(workdir, expected)
    config, read = load_pretrained(out)
    assert config == encoder
    jax.tree.map(np.testing.assert_array_equal, read, params)


def test_transformers_loads_the_folder_and_computes_what_we_compute(workdir: Path, tmp_path: Path):
    out = tmp_path / "a name with spaces"
    export(epath.Path(workdir), epath.Path(out))
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    theirs, report = transformers.AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    assert tokenizer.model_max_length == 12
    tokens = tokenizer("a b <mask> d", return_tensors="np")["input_ids"].astype(np.int32)
    assert tokens.tolist() == [[0, 5, 6, 4, 8, 2]]
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(tokens).long()).logits.numpy()
    encoder, params = _params(workdir, 20)
    model = build(encoder)
    with jax.default_matmul_precision("highest"):
        hidden = model.encode(params, tokens, np.ones_like(tokens), np.arange(6, dtype=np.int32)[None])
        np.testing.assert_allclose(model.predict(params, hidden), expected, rtol=0, atol=1e-5)
    assert {file.name for file in out.iterdir()} == {
        "README.md",
        "config.json",
        "loss_curve.png",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_card_says_what_the_model_was_made_of(workdir: Path, tmp_path: Path):
    out = tmp_path / "norwegian"
    export(epath.Path(workdir), epath.Path(out))
    card = (out / "README.md").read_text()
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "fill-mask")
    assert data.tags == ["unmask", "masked-lm", "roberta"]
    assert "| held-out, last | 20 | 2.4375 | 31.2% |" in card
    assert "| held-out, best | 10 | 2.2500 | 37.5% |" in card
    assert "| training, last | 20 | 2.0000 | 50.0% |" in card
    assert "| batch | 64 rows of 128 tokens |" in card
    assert "| masking | 15% of whole words |" in card
    assert "![Loss and accuracy over the run](loss_curve.png)" in card
    assert "Some text with a <mask> in it." in card
    assert "- `files` `no-*.txt,more.txt`" in card


def test_the_card_publishes_no_folder_of_this_machine(workdir: Path, tmp_path: Path):
    export(epath.Path(workdir), epath.Path(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    for private in ("/home/somebody", "bucket", str(workdir), str(tmp_path)):
        assert private not in card


def test_the_recipe_in_the_card_is_the_run_s_config(workdir: Path, tmp_path: Path):
    export(epath.Path(workdir), epath.Path(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    recipe = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[1]
    ast.parse(recipe)
    (tmp_path / "recipe.py").write_text(recipe)
    config, _ = parse(PretrainConfig, ["pretrain", f"--config={tmp_path / 'recipe.py'}"], lambda values: None)
    data = dataclasses.replace(CONFIG.data, path="no-*.txt,more.txt")
    assert config == dataclasses.replace(CONFIG, data=data)


def test_an_earlier_step_s_card_leaves_out_what_came_later(workdir: Path, tmp_path: Path):
    export(epath.Path(workdir), epath.Path(tmp_path / "out"), step="10")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| held-out, last | 10 | 2.2500 | 37.5% |" in card and "2.4375" not in card
    assert "| steps | 10 |" in card


def test_a_folder_that_holds_anything_else_is_never_replaced(workdir: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(
            UserError, match=r"holds files that no export wrote \(precious\.txt\); name a new folder"
        ):
            export(epath.Path(workdir), epath.Path(out), overwrite=overwrite)
        with pytest.raises(UserError, match=r"holds files that no export wrote"):
            export(epath.Path(workdir), epath.Path(workdir), overwrite=overwrite)
    assert [file.name for file in out.iterdir()] == ["precious.txt"]
    with pytest.raises(UserError, match=r"is a file; name a folder"):
        export(epath.Path(workdir), epath.Path(out / "precious.txt"), overwrite=True)


def test_an_earlier_export_is_replaced_only_when_told(workdir: Path, tmp_path: Path):
    out = tmp_path / "out"
    export(epath.Path(workdir), epath.Path(out))
    (out / "config.json").write_text("of an earlier model")
    with pytest.raises(
        UserError, match=r"out holds an earlier export; name a new folder, or pass --overwrite"
    ):
        export(epath.Path(workdir), epath.Path(out))
    export(epath.Path(workdir), epath.Path(out), overwrite=True)
    assert "earlier" not in (out / "config.json").read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_failure_halfway_leaves_nothing_behind(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "save_pretrained", fail)
    with pytest.raises(UserError, match=r"out cannot be written: .*No space left on device"):
        export(epath.Path(workdir), epath.Path(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_config_json_is_written_last_in_the_place_and_in_a_bucket(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A killed export leaves no config.json, and what an earlier one left is gone."""
    seen: list[set[str]] = []

    def killed(config):
        (folder,) = tmp_path.iterdir()
        seen.append({file.name for file in folder.iterdir()})
        raise KeyboardInterrupt

    monkeypatch.setattr("pretrain.models.huggingface.config_dict", killed)
    everything = {"README.md", LOSS_CURVE, "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    for in_bucket in (False, True):
        monkeypatch.setattr(export_module, "check_writable", lambda out, flag: None)
        monkeypatch.setattr(export_module, "is_remote", lambda path, answer=in_bucket: answer)
        with pytest.raises(KeyboardInterrupt):
            export(epath.Path(workdir), epath.Path(tmp_path / "out"))
    assert seen == [everything, everything]
    (tmp_path / "out" / "config.json").write_text("of an earlier model")
    with pytest.raises(KeyboardInterrupt):
        export(epath.Path(workdir), epath.Path(tmp_path / "out"), overwrite=True)
    assert {file.name for file in (tmp_path / "out").iterdir()} == everything


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("15", r"no checkpoint of step 15 in .*; there are \[10, 20\]"),
        ("newest", r"--step='newest' should be"),
    ],
)
def test_a_step_that_is_not_there_is_refused(workdir: Path, tmp_path: Path, step: str, message: str):
    with pytest.raises(UserError, match=message):
        export(epath.Path(workdir), epath.Path(tmp_path / "out"), step=step)
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_one_line_and_an_earlier_one_can_be_exported(workdir: Path, tmp_path: Path):
    damaged = shutil.copytree(workdir, tmp_path / "damaged")
    metadata = damaged / "checkpoints" / "20" / "state" / "_METADATA"
    metadata.write_bytes(metadata.read_bytes()[: metadata.stat().st_size // 2])
    with pytest.raises(UserError, match=r"checkpoint 20 in .* cannot be read .*other steps: \[10\]") as error:
        export(epath.Path(damaged), epath.Path(tmp_path / "out"))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
    assert export(epath.Path(damaged), epath.Path(tmp_path / "out"), step="10").step == 10


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    for place, flaw in ((tmp_path, "has no model.json"), (tmp_path / "nowhere", "does not exist")):
        with pytest.raises(UserError) as error:
            export(epath.Path(place), epath.Path(tmp_path / "out"))
        assert str(error.value) == f"--workdir={place} {flaw}; it should be the folder of a pretraining run"
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UserError, match=r"^the run in .* has no checkpoint yet; run its command again"):
        export(epath.Path(tmp_path), epath.Path(tmp_path / "out"))


def test_the_command_says_where_the_model_is(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    assert main(["export", f"--workdir={workdir}", f"--out={out}", "--step=best"]) == 0
    assert f"{out} holds step 10 (" in capsys.readouterr().out
    with pytest.raises(SystemExit) as done:
        main(["export", "--help"])
    assert (
        not done.value.code and "--overwrite: replace an earlier export in --out" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=x"], "no --out given"),
        (["--out=x"], "no --workdir given"),
        (["--workdir=x", "--out=y", "--bogus=1"], "--bogus is not a flag; there are --workdir, --out, "),
        (["--workdir=x", "--ot=y"], "--ot is not a flag; did you mean --out?"),
        (["--output_dir=x"], "--output_dir is not a flag; did you mean --workdir?"),
        (["--workdir=x", "--out=y", "z"], "unexpected argument 'z'"),
    ],
)
def test_a_command_line_that_is_wrong_is_refused(arguments: list[str], message: str):
    with pytest.raises(UserError, match=message):
        main(["export", *arguments])


def test_a_loss_curve_or_card_that_fails_costs_no_export(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_):
        raise ValueError("no font")

    monkeypatch.setattr("pretrain.reports.end_summary.write_loss_curve", fail)
    monkeypatch.setattr(export_module, "model_card", fail)
    export(epath.Path(workdir), epath.Path(tmp_path / "out"))
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "loss_curve.png could not be written: no font; export again to have it",
        "README.md could not be written: no font; export again to have it",
    ]
    assert load_pretrained(tmp_path / "out")[0] == _params(workdir, 20)[0]


def test_language_and_licence_are_flags_or_fields(workdir: Path, tmp_path: Path):
    flags = ["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]
    assert main([*flags, "--language=nb", "--license=apache-2.0"]) == 0
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.language, data.license) == (["nb"], "apache-2.0")
    with pytest.raises(UserError, match=r"--language='Norwegian': 'Norwegian' is no language code; write"):
        main([*flags, "--language=Norwegian", "--overwrite"])
    with pytest.raises(UserError, match=r"config.card.language='Norsk': .* is no language code"):
        check_values(dataclasses.replace(CONFIG, card=CardConfig(language="Norsk")))


def test_the_snippet_in_the_card_runs(workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    export(epath.Path(workdir), epath.Path(tmp_path / 'it\'s "mine"'))
    card = (tmp_path / 'it\'s "mine"' / "README.md").read_text()
    snippet = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    *before, last = ast.parse(snippet).body
    names: dict = {}
    exec(compile(ast.Module(before, []), "card", "exec"), names)
    answers = eval(compile(ast.Expression(last.value), "card", "eval"), names)
    assert len(answers) == 5 and answers[0]["score"] <= 1
