"""Files of models and tokenizers that are made to do harm: confined, dropped, or refused in one line."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from base.errors import UserError
from finetune.classifier.finetuned_model import find_model
from finetune.classifier.pretrained import load_encoder_for_classification, save_classifier
from pretrain import export
from pretrain.models.huggingface import load_pretrained, parse_config, read_published
from tests.finetune.tiny_task import write_model
from tokenizer.load import load

ROBERTA = {"model_type": "roberta", "hidden_size": 32, "num_attention_heads": 4, "pad_token_id": 1}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), layers=1)


@pytest.fixture
def model(written: Path, tmp_path: Path) -> Path:
    """The folder of a model, to be changed."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in written.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def change(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


PLACES = (
    "{}/secret.safetensors", "../secret.safetensors", "a/../../secret.safetensors", "..\\secret.safetensors",
    "..", "", 7, None, ["x"], "pytorch_model.bin",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_an_index_names_files_of_its_own_folder(model, tmp_path, place):
    (model / "model.safetensors").rename(tmp_path / "secret.safetensors")
    place = place.format(tmp_path) if isinstance(place, str) else place
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(UserError, match=r"it should name \.safetensors files of its own folder") as error:
        read_published(model)
    one_line(error)


@pytest.mark.parametrize("places", ["x", [], {}, None])
def test_an_index_has_a_map(model, places):
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(UserError, match="should have a weight_map"):
        read_published(model)


def header(values: object) -> bytes:
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text)) + text


LIES = {
    "beyond the end": header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 10**9]}}) + bytes(16),
    "another size": header({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 16]}}) + bytes(16),
    "backwards": header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}) + bytes(16),
    "overflow": header({"a": {"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 16]}}) + bytes(16),
    "negative": header({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}) + bytes(16),
    "overlap": header({name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in "ab"}) + bytes(16),
    "a huge header": struct.pack("<Q", 2**62) + b"{}",
    "no header": b"",
    "no JSON": struct.pack("<Q", 4) + b"\xff\xfe{{",
    "a list": header([1, 2]),
    "nested": struct.pack("<Q", 100_000) + b"[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_header_of_safetensors_that_lies_is_one_line(model, lie):
    (model / "model.safetensors").write_bytes(LIES[lie])
    with pytest.raises(UserError, match="is damaged or not a safetensors file") as error:
        read_published(model)
    one_line(error)


def test_a_folder_in_the_place_of_weights_is_one_line(model):
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").mkdir()
    with pytest.raises(UserError, match="is damaged or not a safetensors file"):
        read_published(model)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layer_norm_eps", float("nan")),
        ("layer_norm_eps", float("inf")),
        ("layer_norm_eps", -1e-5),
        ("layer_norm_eps", 0),
        ("layer_norm_eps", "1e-5"),
        ("initializer_range", float("nan")),
        ("hidden_dropout_prob", float("nan")),
        ("hidden_size", -32),
        ("hidden_size", 10**9),
        ("hidden_size", 10**30),
        ("hidden_size", [32]),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", -1),
        ("num_attention_heads", 0),
        ("intermediate_size", 10**12),
        ("vocab_size", 10**12),
        ("max_position_embeddings", 10**12),
        ("max_position_embeddings", -5),
        ("type_vocab_size", 10**9),
        ("pad_token_id", -1),
        ("model_type", ["roberta"]),
        ("hidden_act", {}),
    ],
)
def test_values_that_no_network_has_are_refused_before_anything_is_made(field, value):
    with pytest.raises(UserError, match=field) as error:
        parse_config({**ROBERTA, field: value}, "config.json")
    one_line(error)


@pytest.mark.parametrize("field", ["rope_theta", "norm_eps", "local_attention"])
def test_so_are_those_of_modernbert(field):
    values = {"model_type": "modernbert", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}
    name = {"rope_theta": "global_rope_theta"}.get(field, field)
    with pytest.raises(UserError) as error:
        parse_config({**values, name: float("nan")}, "config.json")
    one_line(error)


@pytest.mark.parametrize(
    "size", [{"hidden_size": 400_000}, {"num_hidden_layers": 10_000}, {"vocab_size": 10**8}]
)
def test_large_sizes_are_compared_with_the_weights_before_arrays_are_made(model, size, monkeypatch):
    """A hidden size of 400,000 makes a head of 640 GB."""
    change(model / "config.json", **size)

    def made(*arguments, **more):
        raise AssertionError("an array was made")

    monkeypatch.setattr("pretrain.models.tensor_names.empty_params", made)
    monkeypatch.setattr("finetune.classifier.network.Classifier.init_head", made)
    for read in (load_pretrained, lambda source: load_encoder_for_classification(str(source), ["a", "b"])):
        with pytest.raises(UserError, match=r"by its config\.json") as error:
            read(model)
        one_line(error)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_labels": 10**12}, "num_labels=1000000000000"),
        ({"num_labels": "x"}, "num_labels='x'"),
        ({"id2label": {"x": "a"}}, "should be numbers"),
        ({"classifier_dropout": float("nan")}, "classifier_dropout=nan"),
        ({"classifier_dropout": 2.0}, r"classifier_dropout=2\.0"),
    ],
)
def test_heads_that_no_classifier_has_are_refused(model, values, message):
    change(model / "config.json", architectures=["RobertaForSequenceClassification"], **values)
    arrays = safetensors.numpy.load_file(model / "model.safetensors")
    width = arrays["roberta.embeddings.word_embeddings.weight"].shape[1]
    arrays = {name: array for name, array in arrays.items() if not name.startswith("lm_head")}
    arrays["classifier.dense.weight"] = np.zeros((width, width), np.float32)
    arrays["classifier.dense.bias"] = np.zeros(width, np.float32)
    arrays["classifier.out_proj.weight"] = np.zeros((2, width), np.float32)
    arrays["classifier.out_proj.bias"] = np.zeros(2, np.float32)
    safetensors.numpy.save_file(arrays, model / "model.safetensors")
    with pytest.raises(UserError, match=message) as error:
        find_model(str(model))
        load_encoder_for_classification(str(model), ["a", "b"])
    one_line(error)


@pytest.mark.parametrize("length", [float("nan"), float("inf"), -4, 0, 1e30, "x"])
def test_a_length_that_no_tokenizer_has_is_none(model, length):
    change(model / "tokenizer_config.json", model_max_length=length)
    change(model / "config.json", architectures=["RobertaForSequenceClassification"])
    assert find_model(str(model)).max_length == 64


@pytest.mark.parametrize("named", [7, "x", None, [7, None], {}])
def test_classes_that_are_no_names_are_none(model, named):
    change(model / "config.json", architectures=named)
    assert load_encoder_for_classification(str(model), ["a", "b"]).fresh_head


def test_names_of_code_are_not_passed_on_and_not_run(model, tmp_path):
    code = {"AutoTokenizer": ["evil.T", None], "AutoModel": "evil.M", "AutoConfig": "evil.C"}
    (model / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass T: pass\nclass M: pass\nclass C: pass\n"
    )
    change(model / "config.json", auto_map=code, custom_pipelines={"fill-mask": {"impl": "evil.P"}})
    change(model / "tokenizer_config.json", auto_map=code)
    start = load_encoder_for_classification(str(model), ["a", "b"])
    out = tmp_path / "out"
    save_classifier(out, start.classifier, start.params, start.config, ["a", "b"], load(str(model)))
    assert not (tmp_path / "ran").exists()
    assert all(b"evil" not in file.read_bytes() for file in out.iterdir())


@pytest.mark.parametrize(
    "values",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "////"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP///38="}},
    ],
    ids=["when it is read", "when it encodes"],
)
def test_a_tokenizer_that_makes_the_library_panic_is_one_line(model, values, capfd):
    change(model / "tokenizer.json", **values)
    with pytest.raises(
        UserError, match=r"^the tokenizer .* cannot be read: .*; set config\.tokenizer\.path$"
    ) as error:
        load(str(model))
    one_line(error)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["a link to a folder", "a link to nothing", "a file", "a folder of others"])
def test_an_export_goes_to_no_place_that_holds_something(kind, tmp_path):
    """It is refused before the run is looked at."""
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    if kind == "a file":
        out.write_text("mine")
    elif kind == "a folder of others":
        out = other
    else:
        out.symlink_to(other if kind == "a link to a folder" else tmp_path / "nothing")
    before = sorted(tmp_path.iterdir())
    for overwrite in ("true", "false"):
        with pytest.raises(UserError, match=r"--out=.* (is a symbolic link|is a file|holds files)") as error:
            export.main(
                ["export", f"--workdir={tmp_path / 'run'}", f"--out={out}", f"--overwrite={overwrite}"]
            )
        one_line(error)
    assert sorted(tmp_path.iterdir()) == before and (other / "mine.txt").read_text() == "mine"
    assert [path.name for path in other.iterdir()] == ["mine.txt"]
    assert not epath.Path(tmp_path / "nothing").exists()
