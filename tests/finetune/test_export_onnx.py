"""ONNX of masked language models, in float32 and int8, and the command that writes both and measures them."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest

from base.errors import UserError
from finetune import export_onnx as command
from finetune.evaluate import main as evaluate
from finetune.export_onnx import cost_of, folder_of, hidden_rows, main
from finetune.onnx import FILE_NAME, INT8_NAME, OnnxClassifier, export_onnx
from finetune.onnx_int8 import write_int8
from pretrain.models import build
from pretrain.models.huggingface import load_pretrained
from tests.finetune.reference_models import random_model
from tests.finetune.tiny_task import ANIMALS, write_examples, write_model
from tests.tiny import write_corpus


@pytest.fixture(autouse=True)
def _no_log_handlers(monkeypatch: pytest.MonkeyPatch):
    """A handler would outlive the test whose stderr it writes to."""
    monkeypatch.setattr("pretrain.runtime.train_command.log_to_stderr", lambda: None)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa with its tokenizer, and model.onnx and model_quantized.onnx in a folder beside it, by the command."""
    place = tmp_path_factory.mktemp("masked")
    write_model(place)
    write_corpus(place / "text.txt", 40)
    out = place / "onnx"
    out.mkdir()
    (out / f"{INT8_NAME}.data").write_bytes(b"of an earlier model")
    given = [f"--model={place / 'model'}", f"--out={out}", "--int8", f"--text={place / 'text.txt'}"]
    assert main(["export_onnx", *given]) == 0
    return place


def test_onnxruntime_gives_our_logits_of_a_masked_language_model(masked: Path):
    config, params = load_pretrained(masked / "model")
    model, onnx_model = build(config), OnnxClassifier(masked / "onnx")
    rows = hidden_rows(masked / "model", ["the old cat", "a dog sees the river behind the house"])
    tokens, mask = rows["tokens"], rows["attention"]
    positions = np.where(mask > 0, np.arange(tokens.shape[1]), 0)
    with jax.default_matmul_precision("highest"):
        expected = model.predict(params, model.encode(params, tokens, mask, positions))
    assert onnx_model.labels == config.vocab_size
    for length in (tokens.shape[1], int(mask.sum(axis=1).max())):
        ours = onnx_model.logits(tokens[:, :length], mask[:, :length])
        inside = mask[:, :length] > 0
        if length == tokens.shape[1]:
            np.testing.assert_allclose(ours[inside], np.asarray(expected)[inside], atol=1e-4)
        else:  # both texts are shorter, so that nothing is lost
            assert mask[:, length:].sum() == 0
            np.testing.assert_allclose(ours[inside], np.asarray(expected)[:, :length][inside], atol=1e-4)
    graph = onnx.load(masked / "onnx" / FILE_NAME).graph
    dims = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph.output
    }
    assert dims == {"logits": ["batch", "sequence", config.vocab_size]}


def test_weights_in_int8_are_smaller_and_their_cost_is_that_of_the_file(masked: Path):
    out = masked / "onnx"
    assert sorted(file.name for file in out.iterdir()) == [FILE_NAME, INT8_NAME], (
        "and nothing of an earlier model"
    )
    kinds = {
        tensor.data_type for tensor in onnx.load(out / INT8_NAME).graph.initializer if len(tensor.dims) == 2
    }
    assert (
        onnx.TensorProto.INT8 in kinds
        and (out / INT8_NAME).stat().st_size < 0.6 * (out / FILE_NAME).stat().st_size
    )
    rows = hidden_rows(masked / "model", (masked / "text.txt").read_text().splitlines())
    exact, rounded = (cost_of(out, name, rows) for name in (FILE_NAME, INT8_NAME))
    assert exact.loss != rounded.loss and abs(exact.loss - rounded.loss) < 0.1
    hidden = rows["targets"] >= 0
    assert 0.1 < hidden.sum() / rows["attention"].sum() < 0.2
    np.testing.assert_array_equal(rows["tokens"][hidden], np.full(hidden.sum(), 4))
    again = hidden_rows(masked / "model", (masked / "text.txt").read_text().splitlines())
    np.testing.assert_array_equal(again["targets"], rows["targets"])


def test_the_loss_is_that_of_the_logits(masked: Path):
    rows = {
        name: array[:3] for name, array in hidden_rows(masked / "model", ["the cat and the dog"] * 3).items()
    }
    logits = OnnxClassifier(masked / "onnx").logits(rows["tokens"], rows["attention"])
    wanted = [
        float(jax.nn.log_softmax(logits[row, place])[target])
        for (row, place), target in np.ndenumerate(rows["targets"])
        if target >= 0
    ]
    found = cost_of(masked / "onnx", FILE_NAME, rows)
    assert found.loss == pytest.approx(-np.mean(wanted), rel=1e-5)


def test_evaluation_scores_int8_beside_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    random_model("roberta", tmp_path / "random", labels=2)
    write_model(tmp_path)
    model = tmp_path / "classifier"
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    fields = {
        name: config[name]
        for name in ("vocab_size", "max_position_embeddings", "pad_token_id", "type_vocab_size")
    }
    random_model("roberta", model, labels=2, **fields, id2label={"0": "none", "1": "animal"})
    for file in (tmp_path / "model").glob("*token*"):
        shutil.copy(file, model)
    examples = write_examples(tmp_path / "validation.csv", 21)
    given = [
        "evaluate",
        f"--model={model}",
        f"--config.data.validation={examples}",
        "--config.data.text=sentence",
    ]
    given += ["--config=configs/classify.py", f"--out={tmp_path / 'scores.json'}", "--int8"]
    with pytest.raises(UserError, match=r"^--int8 compares files of ONNX: set --config.inference=onnx"):
        evaluate(given)
    assert evaluate([*given, "--config.inference=onnx"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["metrics"]) == set(scores["int8_metrics"]) and len(ANIMALS) == 4
    assert scores["metrics"]["loss"] != scores["int8_metrics"]["loss"]
    assert "in int8" in capsys.readouterr().out and (model / INT8_NAME).exists()


def test_what_cannot_be_written_is_one_line(tmp_path: Path, masked: Path):
    with pytest.raises(UserError, match=r"^no --model given: a folder in transformers' format"):
        main(["export_onnx"])
    with pytest.raises(
        UserError, match=r"^--model=gs://a/b: ONNX is written to a file system; copy the folder first"
    ):
        folder_of("gs://a/b")
    with pytest.raises(
        UserError, match=r"has no config.json; name a folder that pretrain.export or a fine-tuning run"
    ):
        folder_of(str(tmp_path))
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"is a run of pretraining; export it first: python -m pretrain.export --workdir="
    ):
        folder_of(str(tmp_path))
    with pytest.raises(
        UserError, match=r"has no model.onnx; write one: python -m finetune.export_onnx --model=DIR"
    ):
        write_int8(tmp_path)
    with pytest.raises(UserError, match=r"has no model_quantized.onnx; write one: .* --model=DIR --int8$"):
        OnnxClassifier(tmp_path, INT8_NAME)
    (tmp_path / FILE_NAME).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"model.onnx cannot be quantised: ") as error:
        write_int8(tmp_path)
    assert "\n" not in str(error.value) and sorted(file.name for file in tmp_path.iterdir()) == [
        "model.json",
        FILE_NAME,
    ]
    with pytest.raises(UserError, match=r"^--text holds no text"):
        hidden_rows(masked / "model", ["", " "])


def test_a_text_is_for_masked_language_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    random_model("bert", tmp_path)
    monkeypatch.setattr(command, "export_onnx", export_onnx)
    message = (
        f"--text is for masked language models; .* --model={re.escape(str(tmp_path))} --config.inference=onnx"
    )
    with pytest.raises(UserError, match=message):
        main(["export_onnx", f"--model={tmp_path}", "--text=x.txt"])


def test_ends_of_lines_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    random_model("bert", tmp_path / "model", task="MaskedLM")
    (tmp_path / "x.txt").write_bytes(b"one \r\ntwo\n\nthree\rfour")
    seen: list[list[str]] = []
    monkeypatch.setattr(command, "hidden_rows", lambda folder, lines: seen.append(list(lines)) or {})
    monkeypatch.setattr(command, "export_onnx", lambda folder, out: out / FILE_NAME)
    assert main(["export_onnx", f"--model={tmp_path / 'model'}", f"--text={tmp_path / 'x.txt'}"]) == 0
    assert seen == [["one ", "two", "", "three", "four"]]
