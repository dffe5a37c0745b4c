"""Folders of the Hugging Face ecosystem: what is read, what is refused and with which words, what is written."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from base.errors import UserError
from data.special_tokens import SpecialTokens
from pretrain.config import ModelConfig
from pretrain.models import build, families, huggingface
from pretrain.models.huggingface import (
    config_dict,
    encoder_config,
    load_pretrained,
    parse_config,
    save_pretrained,
)
from pretrain.models.tensor_names import to_state_dict

SPECIAL = SpecialTokens(cls=0, sep=2, pad=1, mask=4, unk=3)
SMALL = ModelConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=14,
    vocab_multiple=1,
    scan_unroll=1,
    dropout_bits=16,
)
BERT = {"family": "bert", "type_vocab_size": 2, "layer_norm_eps": 1e-12}
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnop"]


@functools.cache
def _model(family: str = "roberta", *, tied: bool = True):
    changes = {"tie_word_embeddings": tied} | (BERT if family == "bert" else {})
    config = encoder_config(dataclasses.replace(SMALL, **changes), len(WORDS), SPECIAL)
    params = jax.tree.map(np.asarray, jax.jit(build(config).init)(jax.random.key(0)))
    rng = np.random.default_rng(0)
    return config, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), params)


def _state(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")


def _rewrite(folder: Path, state: dict[str, np.ndarray]) -> None:
    safetensors.numpy.save_file(state, folder / "model.safetensors")


def _saved(folder: Path, family: str = "roberta", *, tied: bool = True) -> Path:
    save_pretrained(folder, *_model(family, tied=tied))
    return folder


def _equal(actual, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# ---- configs ---------------------------------------------------------------------------------------------------


def test_a_config_takes_sizes_from_the_tokenizer_and_ids_from_its_special_tokens():
    config = encoder_config(ModelConfig(), 50265, SPECIAL)
    assert (config.model_type, config.vocab_size, config.hidden_size) == ("roberta", 50265, 768)
    assert (config.bos_token_id, config.pad_token_id, config.eos_token_id) == (0, 1, 2)
    assert config.max_length == 512
    assert encoder_config(ModelConfig(vocab_size=50304), 50265, SPECIAL).vocab_size == 50304
    running = encoder_config(ModelConfig(attention="xla", remat="full", scan_unroll=0), 99, SPECIAL)
    assert (running.attention, running.remat, running.scan_unroll) == ("xla", "full", 0)


def test_bert_counts_positions_from_zero_and_has_no_bos():
    config = encoder_config(ModelConfig(family="bert", max_position_embeddings=512), 100, SPECIAL)
    assert config.max_length == 512
    assert config.bos_token_id is None


@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_config_file_decides_the_network_and_the_run_decides_how_it_runs(tmp_path: Path, form: str):
    expected, _ = _model()
    (tmp_path / "config.json").write_text(json.dumps(config_dict(expected)))
    path = tmp_path / "config.json" if form == "file" else tmp_path
    config = encoder_config(ModelConfig(config_file=str(path), remat="full"), len(WORDS), SPECIAL)
    how = {"remat": "full", "scan_unroll": None, "dropout_bits": 0}
    assert config == dataclasses.replace(expected, **how, vocab_multiple=128)


UNDECLARED = {
    "position_buckets": -1,
    "norm_rel_ebd": "none",
    "share_att_key": False,
    "conv_kernel_size": 0,
    "conv_groups": 1,
    "conv_act": "tanh",
}
"""Fields that transformers' DebertaV2Config does not declare; its network takes these values where they are absent."""


@pytest.mark.parametrize("model_type", families.names())
def test_fields_a_config_file_leaves_out_are_what_transformers_assumes(model_type: str):
    theirs = transformers.AutoConfig.for_model(model_type)
    ours = parse_config({"model_type": model_type}, "here")
    assert parse_config(json.loads(theirs.to_json_string(use_diff=False)), "here") == ours
    # For releases of transformers before 5.
    older = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "position_embedding_type")
    for name, value in config_dict(ours).items():
        if name not in ("architectures", "dtype", *older):
            found = getattr(theirs, name) if hasattr(theirs, name) else UNDECLARED[name]
            assert found == value or (found, value) == (None, []), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2"}, "model_type='gpt2'; known are roberta, xlm-roberta, camembert, bert"),
        ({}, "model_type=None"),
        ({"model_type": "bert", "hidden_act": "mish"}, "hidden_act='mish'; known are gelu, gelu_new"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "only 'absolute' is known"),
        ({"model_type": "roberta", "is_decoder": True}, "is_decoder=True; only False is known"),
        ({"model_type": "roberta", "hidden_size": "768"}, "hidden_size='768' should be of type int, not str"),
        (
            {"model_type": "roberta", "hidden_size": 100},
            "there/config.json: hidden_size=100 should be a multiple of num_attention_heads=12",
        ),
    ],
)
def test_a_network_that_is_not_ours_is_refused_in_one_line(values: dict[str, object], message: str):
    with pytest.raises(UserError) as error:
        parse_config(values, "there/config.json")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "size", "special", "message"),
    [
        (
            {"vocab_size": 10},
            21,
            SPECIAL,
            "vocab_size=10, but the tokenizer has 21 tokens; make it that or more",
        ),
        (
            {"config_file": "FILE"},
            99,
            SPECIAL,
            "the tokenizer has 99 tokens; set config.tokenizer.vocab_size=21 or less, or",
        ),
        (
            {"config_file": "FILE"},
            21,
            dataclasses.replace(SPECIAL, pad=0),
            "pad_token_id=1, but the tokenizer's padding token is 0",
        ),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_network_is_refused(
    tmp_path: Path, changes, size, special, message
):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config_dict(_model()[0])))
    changes = {name: str(file) if value == "FILE" else value for name, value in changes.items()}
    with pytest.raises(UserError, match=message):
        encoder_config(dataclasses.replace(SMALL, **changes), size, special)


# ---- reading ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["roberta", "bert"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_is_saved_is_read_back_to_the_bit(tmp_path: Path, family: str, tied: bool):
    config, params = _model(family, tied=tied)
    read_config, read = load_pretrained(_saved(tmp_path, family, tied=tied))
    assert read_config == config
    _equal(read, params)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_become_float32(tmp_path: Path, dtype: torch.dtype):
    state = {name: torch.tensor(array).to(dtype) for name, array in _state(_saved(tmp_path)).items()}
    save_file(state, tmp_path / "model.safetensors")
    kind = ml_dtypes.bfloat16 if dtype == torch.bfloat16 else np.float16
    _equal(
        load_pretrained(tmp_path)[1], jax.tree.map(lambda x: x.astype(kind).astype(np.float32), _model()[1])
    )


def test_old_names_of_layer_norms_and_tensors_of_other_heads_are_understood(tmp_path: Path):
    state = _state(_saved(tmp_path, "bert"))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in state.items()
    }
    old |= {
        "bert.pooler.dense.weight": np.zeros((16, 16), np.float32),
        "cls.seq_relationship.bias": np.zeros(2, np.float32),
        "bert.embeddings.position_ids": np.arange(14)[None],
        "cls.predictions.decoder.weight": state["bert.embeddings.word_embeddings.weight"],
    }
    assert len(set(old) & set(state)) < len(state)
    _rewrite(tmp_path, old)
    _equal(load_pretrained(tmp_path)[1], _model("bert")[1])


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("form", ["prefixed", "bare", "classifier"])
def test_an_encoder_without_a_head_is_given_a_fresh_one(
    tmp_path: Path, form: str, tied: bool, caplog: pytest.LogCaptureFixture
):
    state = _state(_saved(tmp_path, tied=tied))
    encoder = {name: array for name, array in state.items() if not name.startswith("lm_head")}
    if form == "bare":
        encoder = {name.removeprefix("roberta."): array for name, array in encoder.items()}
    if form == "classifier":
        encoder["classifier.dense.weight"] = np.zeros((16, 16), np.float32)
    _rewrite(tmp_path, encoder)
    config, params = load_pretrained(tmp_path, seed=5)
    assert caplog.messages == [f"{tmp_path} has no masked-language-model head; a fresh one is made"]
    expected = _model(tied=tied)[1]
    _equal(params["layers"], expected["layers"])
    _equal(params["embeddings"], expected["embeddings"])
    _equal(params["head"], jax.jit(build(config).init)(jax.random.key(5))["head"])
    assert ("decoder" in params["head"]) is not tied
    assert np.any(
        load_pretrained(tmp_path)[1]["head"]["dense"]["kernel"] != params["head"]["dense"]["kernel"]
    )


@pytest.mark.parametrize("kept", ["lm_head.bias", "lm_head.decoder.weight", "lm_head.dense.weight"])
def test_part_of_a_head_is_refused(tmp_path: Path, kept: str):
    state = _state(_saved(tmp_path, tied=False))
    _rewrite(
        tmp_path, {name: array for name, array in state.items() if name == kept or "lm_head" not in name}
    )
    for tied in (False, True):
        config = _model(tied=tied)[0]
        (tmp_path / "config.json").write_text(json.dumps(config_dict(config)))
        with pytest.raises(UserError, match=r"lacks lm_head\..* and [3-5] more tensors, which model_type"):
            load_pretrained(tmp_path)


def test_an_id_that_the_hub_could_not_have_is_one_line():
    with pytest.raises(
        UserError, match=r"there is no owner/na--me; give a folder, or the id of a model"
    ) as error:
        load_pretrained("owner/na--me")
    assert "\n" not in str(error.value)


def _without(name: str):
    return lambda state: {key: array for key, array in state.items() if key != name}


KEY_BIAS = "roberta.encoder.layer.1.attention.self.key.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without(KEY_BIAS), f"lacks {KEY_BIAS}, which model_type 'roberta' has"),
        (_without("lm_head.bias"), "lacks lm_head.bias"),
        (
            lambda state: {**state, KEY_BIAS: np.zeros(3, np.float32)},
            rf"{KEY_BIAS} has shape \[3\], .* it is \[16\]",
        ),
        (
            lambda state: {**state, "roberta.encoder.layer.2.output.dense.bias": np.zeros(16, np.float32)},
            "holds roberta.encoder.layer.2.output.dense.bias, which model_type 'roberta' does not have",
        ),
        (
            lambda state: {f"other.{name}": array for name, array in state.items()},
            "lacks roberta.embeddings.LayerNorm.bias and",
        ),
    ],
    ids=["missing", "head_missing", "shape", "unknown", "other_prefix"],
)
def test_tensors_that_do_not_fit_the_config_are_named(tmp_path: Path, change, message: str):
    _rewrite(_saved(tmp_path), change(_state(tmp_path)))
    with pytest.raises(UserError, match=message) as error:
        load_pretrained(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("kept", [0, 5, 2000, -1], ids=["empty", "header_cut", "data_cut", "one_byte_short"])
def test_a_truncated_file_is_reported_in_one_line(tmp_path: Path, kept: int):
    file = _saved(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model.safetensors is damaged or not a safetensors file") as error:
        load_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    _saved(tmp_path / "model")
    _equal(load_pretrained("~/model")[1], _model()[1])
    assert huggingface.read_config("~/model/config.json")["model_type"] == "roberta"


def test_places_that_hold_no_model_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"has no config.json"):
        load_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"there is no .*/nowhere/at/all; give a folder, or the id"):
        load_pretrained(tmp_path / "nowhere" / "at" / "all")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is not valid JSON"):
        load_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"is a file; a model is a folder"):
        load_pretrained(tmp_path / "config.json")


def test_the_hub_is_asked_for_json_and_safetensors_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _saved(tmp_path)
    asked = []

    def download(hub_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((hub_id, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    _equal(load_pretrained("owner/name")[1], _model()[1])
    assert asked == [("owner/name", ["config.json", "*.safetensors", "model.safetensors.index.json"])]
    assert huggingface.read_config("owner/name")["model_type"] == "roberta"
    assert asked[1] == ("owner/name", ["config.json"])


def test_a_hub_that_cannot_be_reached_is_one_line():
    with pytest.raises(UserError, match=r"no folder owner/name; .*, and the hub cannot be reached") as error:
        load_pretrained("owner/name")
    assert "\n" not in str(error.value)


# ---- writing ---------------------------------------------------------------------------------------------------


def _tokenizer_folder(folder: Path) -> Path:
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens(WORDS[:5])
    roles = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    roles |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    return folder


def test_the_fill_mask_pipeline_gives_our_probabilities(tmp_path: Path):
    config, params = _model()
    out = tmp_path / "out"
    save_pretrained(out, config, params, _tokenizer_folder(tmp_path / "tokenizer"))
    fill_mask = transformers.pipeline("fill-mask", model=str(out), tokenizer=str(out), top_k=len(WORDS))
    theirs = {answer["token"]: answer["score"] for answer in fill_mask("a b <mask> d")}

    tokens = np.array([[0, 5, 6, 4, 8, 2]], np.int32)
    model = build(config)
    with jax.default_matmul_precision("highest"):
        logits = model.predict(params, model.encode(params, tokens, np.ones_like(tokens), np.arange(6)[None]))
    ours = np.asarray(jax.nn.softmax(logits))[0, 3]
    np.testing.assert_allclose([theirs[token] for token in range(len(WORDS))], ours, rtol=0, atol=1e-6)
    assert fill_mask.tokenizer.model_max_length == config.max_length == 12
    assert fill_mask.tokenizer.mask_token == "<mask>"


def test_the_file_says_that_pytorch_lays_it_out(tmp_path: Path):
    with safetensors.safe_open(_saved(tmp_path) / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_slice("roberta.encoder.layer.0.intermediate.dense.weight").get_shape() == [24, 16]
    assert "lm_head.decoder.weight" not in _state(tmp_path)
    assert set(_state(tmp_path)) == set(to_state_dict(*_model()))
