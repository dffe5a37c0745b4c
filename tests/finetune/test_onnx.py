"""ONNX: onnxruntime gives the logits of our classifier, for every family, at any batch size and length."""

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import pytest
import transformers

from base.errors import UserError
from finetune import onnx as onnx_module
from finetune import onnx_embedder
from finetune.classifier.pretrained import Start, load_encoder_for_classification, save_classifier
from finetune.kinds import TOKENS
from finetune.onnx import FILE_NAME, INT8_NAME, OnnxClassifier, export_onnx
from tests.finetune.reference_models import NETWORKS, random_model

LABELS = ("no", "maybe", "yes")
SHAPES = [(1, 1), (3, 18), (5, 11)]
"""B and S: the least, the most that all families have positions for, and another."""
FEW_LAYERS = {
    "modernbert": {"num_hidden_layers": 2},
    "modernbert_biases_mean": {
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
"""One layer of each kind: torch writes out every layer, which takes seconds. The model of `exported` has two alike."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    random_model("bert", folder)
    export_onnx(folder)
    return folder


def rows(shape: tuple[int, int], pad: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, attention mask and token types of rows of random lengths."""
    rng = np.random.default_rng(shape)
    mask = (np.arange(shape[1]) < rng.integers(1, shape[1] + 1, (shape[0], 1))).astype(np.int32)
    tokens = np.where(mask, rng.integers(5, 60, shape), pad).astype(np.int32)
    return tokens, mask, (rng.integers(0, 2, shape) * mask).astype(np.int32)


def our_logits(start: Start, batches: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """Of batches of any shapes, by one program: it has their rows together, with padding up to the longest."""
    most = max(tokens.shape[1] for tokens, *_ in batches)
    padded = [[np.pad(array, ((0, 0), (0, most - array.shape[1]))) for array in arrays] for arrays in batches]
    tokens, mask, types = (np.concatenate(arrays) for arrays in zip(*padded, strict=True))
    tokens = np.where(mask, tokens, start.classifier.encoder.config.pad_token_id).astype(np.int32)
    positions = np.broadcast_to(np.arange(most, dtype=np.int32), tokens.shape)
    logits = np.asarray(jax.jit(start.classifier.logits)(start.params, tokens, mask, positions, types))
    return np.split(logits, np.cumsum([len(tokens) for tokens, *_ in batches])[:-1])


def assert_same_logits(start: Start, folder: Path) -> None:
    """Of our classifier and of the model.onnx in the folder."""
    classifier = OnnxClassifier(folder)
    assert classifier.labels == start.classifier.labels
    batches = [rows(shape, start.classifier.encoder.config.pad_token_id) for shape in SHAPES]
    if start.classifier.token_types < 2:
        batches = [(tokens, mask, np.zeros_like(types)) for tokens, mask, types in batches]
    for arrays, expected in zip(batches, our_logits(start, batches), strict=True):
        actual = classifier.logits(*arrays)
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "case",
    [case for case in NETWORKS if case not in ("electra_as_wide", "eurobert_mean", "deberta_v2_xlarge")],
)
def test_onnxruntime_gives_our_logits_at_any_shape_and_nothing_is_said_on_the_way(
    tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    random_model(case, tmp_path / "theirs", **FEW_LAYERS.get(case, {"num_hidden_layers": 1}))
    start = load_encoder_for_classification(str(tmp_path / "theirs"), LABELS)
    save_classifier(tmp_path / "ours", start.classifier, start.params, start.config, LABELS)
    capfd.readouterr()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert export_onnx(tmp_path / "ours") == tmp_path / "ours" / FILE_NAME
    assert capfd.readouterr() == ("", "") and caplog.messages == []
    assert logging.getLogger("torch.onnx").level == logging.NOTSET
    assert transformers.utils.logging.is_progress_bar_enabled()
    assert_same_logits(start, tmp_path / "ours")


def test_onnxruntime_gives_our_scores(tmp_path: Path):
    random_model("roberta", tmp_path, labels=1, num_hidden_layers=1)
    start = load_encoder_for_classification(str(tmp_path), ())
    assert_same_logits(start, export_onnx(tmp_path).parent)


def test_onnxruntime_gives_our_logits_of_tokens(tmp_path: Path):
    random_model("roberta", tmp_path, task="TokenClassification", num_hidden_layers=1)
    start = load_encoder_for_classification(str(tmp_path), LABELS, kind=TOKENS)
    classifier = OnnxClassifier(export_onnx(tmp_path).parent)
    assert classifier.labels == 3
    batches = [rows(shape, start.classifier.encoder.config.pad_token_id) for shape in SHAPES]
    batches = [(tokens, mask, np.zeros_like(types)) for tokens, mask, types in batches]
    for (tokens, mask, _), expected in zip(batches, our_logits(start, batches), strict=True):
        actual = classifier.logits(tokens, mask)
        expected = expected[:, : tokens.shape[1]]
        np.testing.assert_allclose(actual[mask > 0], expected[mask > 0], atol=1e-4, rtol=0)


def test_inputs_and_output_are_named_with_free_axes(exported: Path):
    graph = onnx.load(exported / FILE_NAME).graph
    axes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    assert axes == {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "sequence"],
        "token_type_ids": ["batch", "sequence"],
        "logits": ["batch", 3],
    }


@pytest.mark.parametrize(
    ("case", "fields", "longest"),
    [
        ("roberta", {}, 18),
        ("camembert", {"pad_token_id": 4}, 15),
        ("xlm_roberta", {}, 18),
        ("bert", {}, 20),
        ("modernbert", {}, 20),
    ],
)
def test_rows_may_be_as_long_as_there_are_positions(
    tmp_path: Path, case: str, fields: dict[str, int], longest: int, monkeypatch: pytest.MonkeyPatch
):
    axes = []
    monkeypatch.setattr("torch.onnx.export", lambda *_, dynamic_shapes, **__: axes.append(dynamic_shapes))
    monkeypatch.setattr(onnx_module, "_remove_traces", lambda file: None)
    onnx_module._export(random_model(case, tmp_path, **fields), tmp_path / FILE_NAME)
    assert {shape[1].max for shape in axes[0].values()} == {longest}
    model = load_encoder_for_classification(str(tmp_path), LABELS)
    assert model.classifier.encoder.config.max_length == longest


def test_token_types_left_out_are_zeros_and_a_row_of_padding_is_finite(exported: Path):
    tokens, mask, _ = rows((2, 9))
    classifier = OnnxClassifier(exported)
    np.testing.assert_array_equal(
        classifier.logits(tokens, mask), classifier.logits(tokens, mask, np.zeros_like(tokens))
    )
    assert np.isfinite(classifier.logits(np.zeros_like(tokens), np.zeros_like(mask))).all()


def test_large_weights_are_beside_the_model(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx_module, "MOST_BYTES_IN_ONE_FILE", 1)
    out = tmp_path / "new" / "out"
    assert export_onnx(exported, out) == out / FILE_NAME
    assert sorted(file.name for file in out.iterdir()) == [FILE_NAME, f"{FILE_NAME}.data"]
    assert_same_logits(load_encoder_for_classification(str(exported), LABELS), out)


def test_a_failure_halfway_leaves_the_earlier_file(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(model: Any, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / FILE_NAME).write_bytes(b"earlier")
    monkeypatch.setattr(onnx_module, "_export", fail)
    with pytest.raises(UserError, match=r"model.onnx cannot be written: .*No space left on device"):
        export_onnx(exported, tmp_path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(FILE_NAME, b"earlier")]


def test_what_is_no_model_for_a_task_is_refused(exported: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"has no config.json; name the folder of an exported model"):
        export_onnx(tmp_path)
    (tmp_path / "run/model").mkdir(parents=True)
    (tmp_path / "run/model/config.json").write_text("{}")
    with pytest.raises(UserError, match=r"run has no config.json; name .*/run/model$"):
        export_onnx(tmp_path / "run")
    random_model("bert", tmp_path / "bare", task="")
    with pytest.raises(
        UserError, match=r"bare holds BertModel, not a model ForSequenceClassification or For"
    ):
        export_onnx(tmp_path / "bare")
    cut = shutil.copytree(exported, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cut is not a model that transformers loads: ") as error:
        export_onnx(cut)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob(FILE_NAME + ".unfinished*"))


def test_a_classifier_without_its_head_is_refused(exported: Path, tmp_path: Path):
    bare = transformers.BertModel.from_pretrained(exported)
    bare.save_pretrained(tmp_path)
    shutil.copy(exported / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"lacks weights of its network: classifier.bias, classifier.weight"):
        export_onnx(tmp_path)


def test_a_model_that_is_not_there_or_damaged_is_one_line(exported: Path, tmp_path: Path):
    with pytest.raises(
        UserError, match=r"has no model.onnx; write one: python -m finetune.export_onnx --model=DIR$"
    ):
        OnnxClassifier(tmp_path)
    (tmp_path / FILE_NAME).write_bytes((exported / FILE_NAME).read_bytes()[:1000])
    with pytest.raises(
        UserError, match=r"model.onnx is damaged or not an ONNX model \(.*\); export it again"
    ) as error:
        OnnxClassifier(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("library", ["torch", "onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_it_says_how_to_install_it(
    exported: Path, monkeypatch: pytest.MonkeyPatch, library: str
):
    monkeypatch.setitem(sys.modules, library, None)
    message = rf"{library} is not installed, .* pip install -c constraints.txt -e .\[onnx\]"
    with pytest.raises(UserError, match=message):
        OnnxClassifier(exported) if library == "onnxruntime" else export_onnx(exported)


@pytest.mark.parametrize(("task", "module"), [("", onnx_embedder), ("SequenceClassification", onnx_module)])
def test_an_export_removes_the_quantized_file_of_an_earlier_model(
    task: str, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    random_model("bert", tmp_path / "model", task=task)
    for name in (FILE_NAME, INT8_NAME, f"{INT8_NAME}.data"):
        (tmp_path / name).write_bytes(b"of an earlier model")
    monkeypatch.setattr(module, "_export", lambda model, file: file.write_bytes(b"new"))
    export = module.export_onnx if task else module.export_embedder
    assert export(tmp_path / "model", tmp_path) == tmp_path / FILE_NAME
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [FILE_NAME]
    assert (tmp_path / FILE_NAME).read_bytes() == b"new"
