"""What a classifier starts from: checkpoints of every class, workdirs, and what is refused with which words."""

import dataclasses
import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import transformers

from base.errors import UserError
from data.special_tokens import SpecialTokens
from finetune.classifier.pretrained import load_encoder_for_classification, save_classifier
from finetune.evaluate import class_order
from finetune.job import assemble
from pretrain.config import ModelConfig
from pretrain.models import build
from pretrain.models.huggingface import config_dict, encoder_config
from pretrain.runtime.workdir import MODEL_FILE
from tests.finetune.reference_models import FAMILIES, as_stored, random_model
from tests.finetune.tiny_task import tiny_finetune, write_examples, write_model

LABELS = ("no", "maybe", "yes")
CLASSES = [
    *((case, task) for case in FAMILIES for task in ("", "MaskedLM", "SequenceClassification")),
    ("bert", "PreTraining"),
    ("bert", "TokenClassification"),
    ("electra", "PreTraining"),
    ("albert", "PreTraining"),
    ("modernbert", "TokenClassification"),
    ("roberta", "QuestionAnswering"),
]


def _state(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")


def _rewrite(folder: Path, state: dict[str, np.ndarray]) -> None:
    safetensors.numpy.save_file(state, folder / "model.safetensors")


def _ours(start) -> dict[str, np.ndarray]:
    """What is loaded, by transformers' names."""
    return {tensor.name: tensor.of(start.params) for tensor in start.classifier.tensors()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "task"), CLASSES)
def test_of_any_class_is_kept_what_transformers_keeps(case: str, task: str, tmp_path: Path):
    random_model(case, tmp_path, task=task)
    start = load_encoder_for_classification(str(tmp_path), LABELS)
    theirs, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=3, output_loading_info=True, ignore_mismatched_sizes=True
    )
    fresh = set(report["missing_keys"])
    if task == "TokenClassification":  # under the same names; transformers takes it for a text's
        fresh |= {"classifier.weight", "classifier.bias"}
    ours = _ours(start)
    by_path = {tensor.name: tensor.path for tensor in start.classifier.tensors()}
    drawn = {name for name, path in by_path.items() if path[0] == "head" and path[1] in start.fresh_head}
    assert drawn == fresh
    named = as_stored(theirs, {name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    for name, array in named.items():
        if name not in fresh:
            np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_a_head_for_other_labels_is_drawn_afresh_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    random_model("roberta", tmp_path, labels=3)
    start = load_encoder_for_classification(str(tmp_path), ("no", "yes"), seed=3)
    assert start.fresh_head == {"out"}
    assert caplog.messages == [f"{tmp_path} has no head for 2 classes; a fresh one is drawn"]
    drawn = start.classifier.init_head(jax.random.key(3))
    np.testing.assert_array_equal(start.params["head"]["out"]["kernel"], drawn["out"]["kernel"])
    np.testing.assert_array_equal(
        start.params["head"]["dense"]["bias"], _state(tmp_path)["classifier.dense.bias"]
    )
    caplog.clear()
    score = load_encoder_for_classification(str(tmp_path), ())
    assert score.classifier.labels == 1
    assert caplog.messages == [f"{tmp_path} has no head for a score; a fresh one is drawn"]


def test_tensors_that_transformers_ignores_are_passed_over(tmp_path: Path):
    random_model("deberta", tmp_path)
    table = {"deberta.embeddings.position_embeddings.weight": np.ones((20, 32), np.float32)}
    safetensors.numpy.save_file(_state(tmp_path) | table, tmp_path / "model.safetensors")
    start = load_encoder_for_classification(str(tmp_path), LABELS)
    assert not start.fresh_head


@pytest.mark.parametrize("case", FAMILIES)
def test_rows_of_a_head_that_is_kept_follow_the_names_of_its_classes(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    random_model(case, tmp_path, task="SequenceClassification", labels=3)
    config = json.loads((tmp_path / "config.json").read_text())
    learned = {"2": "YES", "0": "no", "1": "Maybe"}  # by id, not as they stand there
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": learned}))
    start = load_encoder_for_classification(str(tmp_path), ("yes", "no", "maybe"))
    assert not start.fresh_head
    assert caplog.messages == [
        f"the head of {tmp_path} is kept, its rows put in the order of the classes: yes, no, maybe, not no, Maybe, YES"
    ]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).state_dict()
    names = [tensor.name for tensor in start.classifier.tensors() if tensor.path[:2] == ("head", "out")]
    assert len(names) == 2
    for name in names:
        np.testing.assert_array_equal(_ours(start)[name], theirs[name].numpy()[[2, 0, 1]])
    caplog.clear()
    same = load_encoder_for_classification(str(tmp_path), ("no", "Maybe", "YES"))
    assert caplog.messages == [f"the head of {tmp_path} has learned these classes, and is taken as it is"]
    for name in names:
        np.testing.assert_array_equal(_ours(same)[name], theirs[name].numpy())


def test_classes_that_nobody_named_are_found_by_those_names_first(tmp_path: Path):
    random_model("bert", tmp_path, labels=12)
    learned = [f"LABEL_{index}" for index in range(12)]
    start = load_encoder_for_classification(str(tmp_path), learned)
    by_spelling = sorted(learned)  # LABEL_10 before LABEL_2
    again = load_encoder_for_classification(str(tmp_path), by_spelling)
    rows = [learned.index(label) for label in by_spelling]
    for name in ("kernel", "bias"):
        found, whole = again.params["head"]["out"][name], start.params["head"]["out"][name]
        np.testing.assert_array_equal(found, whole[..., rows])
    assert class_order(learned, by_spelling, "m") == rows


def test_a_head_of_numbers_follows_their_values(tmp_path: Path):
    random_model("bert", tmp_path, labels=3)
    start = load_encoder_for_classification(str(tmp_path), LABELS)
    save_classifier(tmp_path / "named", start.classifier, start.params, start.config, ("10.0", "2.0", "1.0"))
    again = load_encoder_for_classification(str(tmp_path / "named"), ("1", "2", "10"))
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(
            again.params["head"]["out"][name], start.params["head"]["out"][name][..., [2, 1, 0]]
        )


def test_a_head_whose_config_names_another_number_of_classes_is_not_said_to_have_no_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    random_model("bert", tmp_path / "model", labels=3)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    named = {**config, "id2label": {"0": "no", "1": "yes"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(named))
    caplog.set_level(logging.INFO)
    load_encoder_for_classification(str(tmp_path / "model"), LABELS)
    assert caplog.messages == [
        f"the head of {tmp_path / 'model'} is kept; its config.json names 2 classes, not 3: its rows are taken for no, "
        "maybe, yes in this order"
    ]


def test_a_head_that_learned_other_names_is_kept_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    random_model("bert", tmp_path / "unnamed", labels=3)
    caplog.set_level(logging.INFO)
    start = load_encoder_for_classification(str(tmp_path / "unnamed"), LABELS)
    assert caplog.messages == [
        f"the head of {tmp_path / 'unnamed'} is kept; it has no names for its classes, which are taken for no, maybe, "
        "yes in this order"
    ]
    assert not start.fresh_head
    save_classifier(tmp_path / "named", start.classifier, start.params, start.config, LABELS)
    caplog.clear()
    again = load_encoder_for_classification(str(tmp_path / "named"), ("yes", "never", "no"))
    assert not again.fresh_head
    assert caplog.messages == [
        f"the head of {tmp_path / 'named'} is kept, but its classes are no, maybe, yes and not yes, never, no"
    ]
    np.testing.assert_array_equal(  # those of the same name are in their places
        again.params["head"]["out"]["bias"], start.params["head"]["out"]["bias"][[2, 1, 0]]
    )


def test_ids_of_classes_that_are_no_numbers_are_one_line(tmp_path: Path):
    random_model("bert", tmp_path, labels=3)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "id2label": {"a": "no", "b": "yes", "c": "maybe"}})
    )
    with pytest.raises(UserError) as error:
        load_encoder_for_classification(str(tmp_path), LABELS)
    assert str(error.value) == f"{tmp_path}: the ids of id2label in its config.json should be numbers"


def test_what_is_saved_is_read_back_to_the_bit(tmp_path: Path):
    random_model("modernbert", tmp_path / "theirs")
    start = load_encoder_for_classification(str(tmp_path / "theirs"), LABELS)
    beside = {"README.md": b"# A model\n"}
    save_classifier(tmp_path / "ours", start.classifier, start.params, start.config, LABELS, beside=beside)
    again = load_encoder_for_classification(str(tmp_path / "ours"), LABELS)
    jax.tree.map(np.testing.assert_array_equal, again.params, start.params)
    assert again.classifier == start.classifier
    assert (tmp_path / "ours" / "README.md").read_bytes() == b"# A model\n"


def test_a_workdir_of_pretraining_gives_its_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Checkpoints are read by pretraining's own function, which stands for the run here."""
    special = SpecialTokens(cls=0, sep=2, pad=1, mask=4, unk=3)
    small = ModelConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    config = encoder_config(small, 30, special)
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda leaf: draw(size=leaf.shape).astype(np.float32), build(config).shapes())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / MODEL_FILE).write_text(json.dumps(config_dict(config)))
    average = jax.tree.map(lambda leaf: leaf / 2, params)

    def restore(workdir, step, weights, mean_of):
        return {"raw": params, "average": average}[weights], {"step": 7}

    monkeypatch.setattr("pretrain.trained_network.restore_params", restore)
    init_weights = load_encoder_for_classification(str(tmp_path), LABELS, weights="average")
    jax.tree.map(np.testing.assert_array_equal, init_weights.params["layers"], average["layers"])
    start = load_encoder_for_classification(str(tmp_path), LABELS, seed=1)
    jax.tree.map(np.testing.assert_array_equal, start.params["layers"], params["layers"])
    assert params["embeddings"]["word"].shape == (128, 16)
    embeddings = {**params["embeddings"], "word": params["embeddings"]["word"][:30]}
    jax.tree.map(np.testing.assert_array_equal, start.params["embeddings"], embeddings)
    assert start.fresh_head == {"dense", "out"}
    assert start.params["head"]["out"]["kernel"].shape == (16, 3)
    save_classifier(tmp_path / "out", start.classifier, start.params, start.config, LABELS)
    loaded, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert {name: found for name, found in report.items() if found} == {}
    assert type(loaded).__name__ == "RobertaForSequenceClassification"


def test_fields_of_the_network_can_be_set_otherwise(tmp_path: Path):
    random_model("modernbert", tmp_path / "modernbert")
    random_model("bert", tmp_path / "bert")
    overrides = {
        "hidden_dropout_prob": 0.3,
        "classifier_dropout": 0.4,
        "attention_probs_dropout_prob": 0.2,
        "remat": "full",
        "scan_unroll": 0,
        "attention": "xla",
    }
    for case in ("modernbert", "bert"):
        start = load_encoder_for_classification(str(tmp_path / case), LABELS, overrides=overrides)
        config = start.classifier.encoder.config
        assert (config.attention_probs_dropout_prob, config.remat, config.scan_unroll) == (0.2, "full", 1)
        assert start.classifier.head_config.dropout == 0.4
        own = config.own
        hidden = (own.embedding_dropout, own.mlp_dropout) if own else (config.hidden_dropout_prob,)
        assert set(hidden) == {0.3}
    with pytest.raises(UserError, match=r"hidden_dropout_prob=1.5 should be at least 0"):
        load_encoder_for_classification(
            str(tmp_path / "bert"), LABELS, overrides={"hidden_dropout_prob": 1.5}
        )


def _without(name: str):
    return lambda state: {key: array for key, array in state.items() if key != name}


KEY_BIAS = "electra.encoder.layer.1.attention.self.key.bias"
WORD = "electra.embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without(KEY_BIAS), f"lacks {KEY_BIAS}, which model_type 'electra' has"),
        (_without("classifier.out_proj.bias"), "lacks classifier.out_proj.bias, which"),
        (_without("classifier.dense.weight"), "lacks classifier.dense.weight, which"),
        (
            lambda state: {**state, WORD: np.zeros((50, 20), np.float32)},
            f"{WORD} has shape [50, 20], but by its config.json it is [61, 20]",
        ),
        (
            lambda state: {**state, "electra.encoder.layer.3.output.dense.bias": np.zeros(32, np.float32)},
            "holds electra.encoder.layer.3.output.dense.bias, which model_type 'electra' does not have",
        ),
    ],
    ids=["missing", "head_missing", "dense_missing", "vocabulary", "unknown"],
)
def test_tensors_that_do_not_fit_the_config_are_named(tmp_path: Path, change, message: str):
    random_model("electra", tmp_path)
    _rewrite(tmp_path, change(_state(tmp_path)))
    with pytest.raises(UserError) as error:
        load_encoder_for_classification(str(tmp_path), LABELS)
    assert message in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0, 2000, -1], ids=["empty", "cut", "one_byte_short"])
def test_a_truncated_file_is_one_line(tmp_path: Path, kept: int):
    random_model("distilbert", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model.safetensors is damaged or not a safetensors file") as error:
        load_encoder_for_classification(str(tmp_path), LABELS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model_type": "xlnet"},
            "has model_type='xlnet'; known are roberta, xlm-roberta, camembert, bert, distilbert, electra,"
            " modernbert",
        ),
        (
            {"model_type": "modernbert", "classifier_pooling": "max"},
            "classifier_pooling='max'; known are cls, mean",
        ),
        (
            {"model_type": "modernbert", "classifier_activation": "mish"},
            "classifier_activation='mish'; known are",
        ),
        (
            {"model_type": "bert", "classifier_dropout": "0.1"},
            "classifier_dropout='0.1' should be of type float",
        ),
        ({"model_type": "distilbert", "n_layers": "6"}, "n_layers='6' should be of type int, not str"),
        ({"model_type": "distilbert", "activation": "mish"}, "has activation='mish'; known are gelu"),
    ],
)
def test_a_network_that_is_not_known_is_one_line(tmp_path: Path, values: dict[str, object], message: str):
    (tmp_path / "config.json").write_text(json.dumps(values))
    _rewrite(tmp_path, {})
    with pytest.raises(UserError) as error:
        load_encoder_for_classification(str(tmp_path), LABELS)
    assert message in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_texts_are_pooled_as_the_config_says_and_the_model_says_so(tmp_path: Path):
    """config.model.pooling."""
    random_model("modernbert", tmp_path / "first", task="MaskedLM")
    values = json.loads((tmp_path / "first/config.json").read_text()) | {"classifier_pooling": "cls"}
    (tmp_path / "first/config.json").write_text(json.dumps(values))
    read = load_encoder_for_classification
    start = read(str(tmp_path / "first"), LABELS, overrides={"pooling": "mean"})
    assert start.classifier.head_config.pooling == "mean"
    save_classifier(tmp_path / "second", start.classifier, start.params, start.config, LABELS)
    assert read(str(tmp_path / "second"), LABELS).classifier.head_config.pooling == "mean"
    assert read(str(tmp_path / "first"), LABELS).classifier.head_config.pooling == "cls"
    with pytest.raises(UserError, match=r"config.model.pooling='max' should be one of cls, mean"):
        read(str(tmp_path / "first"), LABELS, overrides={"pooling": "max"})
    random_model("roberta", tmp_path / "third", task="MaskedLM")
    with pytest.raises(UserError, match=r"config.model.pooling='mean': model_type='roberta' has one way"):
        read(str(tmp_path / "third"), LABELS, overrides={"pooling": "mean"})


def test_a_model_that_is_shorter_than_the_default_is_taken_at_its_own_length(tmp_path: Path):
    write_model(tmp_path, layers=1)
    write_examples(tmp_path / "train.csv", 50)
    write_examples(tmp_path / "validation.csv", 21, seed=1)
    unset = dataclasses.replace(tiny_finetune(tmp_path), max_length=0, lengths=())
    assert assemble(unset).config.max_length == 64
    with pytest.raises(
        UserError, match=r"config\.max_length=128 is longer than the model's positions; set it to 64"
    ):
        assemble(dataclasses.replace(unset, max_length=128))
