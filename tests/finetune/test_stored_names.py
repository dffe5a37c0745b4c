"""Names under which a checkpoint may hold its tensors: tied ones by one name, in shards, or as two that differ."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from safetensors.torch import save_model

from base.errors import UserError
from finetune.classifier.pretrained import load_encoder_for_classification
from pretrain.models import build
from pretrain.models.huggingface import load_pretrained
from pretrain.origin import origin_params
from tests.finetune.reference_models import FAMILIES, inputs, pairs_of_texts, random_model

LABELS = ("no", "maybe", "yes")
WEIGHTS = "model.safetensors"
MASKED_LM = ("roberta", "xlm_roberta", "camembert", "bert", "mpnet", "deberta")
TIED = {
    "roberta": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "xlm_roberta": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "camembert": ("roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "distilbert": ("distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),
    "electra": ("electra.embeddings.word_embeddings.weight", "generator_lm_head.weight"),
    "modernbert": ("model.embeddings.tok_embeddings.weight", "decoder.weight"),
    "albert": ("albert.embeddings.word_embeddings.weight", "predictions.decoder.weight"),
    "mpnet": ("mpnet.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    "deberta": ("deberta.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "eurobert": ("model.embed_tokens.weight", "lm_head.weight"),
    "nomic_bert": ("nomic_bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
}


def _state(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / WEIGHTS)


def _by_one_name(case: str, kept: int, folder: Path) -> None:
    state, names = _state(folder), TIED[case]
    tied = next(state.pop(name) for name in names if name in state)
    biases = (
        ("lm_head.bias", "lm_head.decoder.bias"),
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    )
    for pair in biases if case in MASKED_LM else ():
        for name in [name for name in pair if name in state]:
            state[pair[kept]] = state.pop(name)
    safetensors.numpy.save_file({**state, names[kept]: tied}, folder / WEIGHTS)


def _logits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Transformers' and ours, of the masked language model in a folder."""
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
    config, params = load_pretrained(folder)
    batch = pairs_of_texts(config.type_vocab_size, padded=False)
    with torch.no_grad():
        expected = theirs(**inputs(theirs, batch)).logits.numpy()
    model = build(config)
    with jax.disable_jit(), jax.default_matmul_precision("highest"):
        return expected, np.asarray(model.predict(params, model.encode(params, **batch)))


def _equal(actual, expected) -> None:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("case", FAMILIES)
def test_a_tied_tensor_is_found_under_either_name(case: str, tmp_path: Path):
    model = random_model(case, tmp_path, task="MaskedLM")
    expected = load_encoder_for_classification(str(tmp_path), LABELS).params
    head = load_pretrained(tmp_path)[1] if case in MASKED_LM else None
    for kept in (0, 1):
        _by_one_name(case, kept, tmp_path)
        _equal(load_encoder_for_classification(str(tmp_path), LABELS).params, expected)
        if head is not None:
            _equal(load_pretrained(tmp_path)[1], head)
    if case == "nomic_bert":  # save_model writes the names of parameters, which are not those of files
        return
    save_model(model, str(tmp_path / WEIGHTS))
    _equal(load_encoder_for_classification(str(tmp_path), LABELS).params, expected)


@pytest.mark.parametrize("case", MASKED_LM)
def test_what_save_model_writes_gives_the_logits_of_transformers(case: str, tmp_path: Path):
    model = random_model(case, tmp_path, task="MaskedLM")
    save_model(model, str(tmp_path / WEIGHTS), metadata={"format": "pt"})
    expected, ours = _logits(tmp_path)
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-5)


def test_shards_may_hold_a_tied_tensor_under_the_heads_name(tmp_path: Path):
    model = random_model("xlm_roberta", tmp_path, task="MaskedLM")
    expected = load_pretrained(tmp_path)[1]
    _by_one_name("xlm_roberta", 1, tmp_path)
    state = {name: torch.tensor(array) for name, array in _state(tmp_path).items()}
    (tmp_path / WEIGHTS).unlink()
    model.save_pretrained(tmp_path, state_dict=state, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    _equal(load_pretrained(tmp_path)[1], expected)


@pytest.mark.parametrize("case", ["roberta", "bert"])
def test_a_tied_tensor_stored_twice_with_other_values_is_two_as_in_transformers(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    random_model(case, tmp_path, task="MaskedLM")
    word, decoder = TIED[case]
    bias = decoder.replace("decoder.weight", "bias")
    state = _state(tmp_path)
    state |= {decoder: state[word] + 1, decoder.replace("weight", "bias"): state[bias] + 2}
    safetensors.numpy.save_file(state, tmp_path / WEIGHTS)
    expected, ours = _logits(tmp_path)
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-5)
    said = f"{tmp_path}: tie_word_embeddings is true, but {word} and {decoder} differ; they are read as two"
    assert said in caplog.messages
    tied = SimpleNamespace(tie_word_embeddings=True)
    asked = SimpleNamespace(init_from=str(tmp_path), init_weights="raw", seed=0)
    job = SimpleNamespace(config=asked, encoder=tied)
    with pytest.raises(UserError, match=r"that differ; set tie_word_embeddings to false in its config.json"):
        origin_params(job)


def test_a_bias_stored_twice_with_other_values_is_the_decoders(tmp_path: Path):
    random_model("roberta", tmp_path, task="MaskedLM")
    state = _state(tmp_path)
    safetensors.numpy.save_file(
        {**state, "lm_head.decoder.bias": state["lm_head.bias"] + 2}, tmp_path / WEIGHTS
    )
    expected, ours = _logits(tmp_path)
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-5)


def test_what_is_not_tied_is_not_taken_for_another(tmp_path: Path):
    random_model("roberta", tmp_path, task="MaskedLM", tie_word_embeddings=False)
    word, _ = TIED["roberta"]
    state = _state(tmp_path)
    del state[word]
    safetensors.numpy.save_file(state, tmp_path / WEIGHTS)
    for load in (load_pretrained, lambda folder: load_encoder_for_classification(str(folder), LABELS)):
        with pytest.raises(UserError, match=f"lacks {word}, which model_type 'roberta' has"):
            load(tmp_path)


@pytest.mark.parametrize("task", ["", "MaskedLM"])
def test_architectures_that_do_not_say_what_they_are_for_leave_a_head_that_is_there(
    task: str, tmp_path: Path
):
    random_model("bert", tmp_path)
    file = tmp_path / "config.json"
    named = file.read_text().replace("BertForSequenceClassification", "BertForMaskedLM" if task else "MyBert")
    file.write_text(named)
    start = load_encoder_for_classification(str(tmp_path), LABELS)
    assert start.fresh_head == ({"out"} if task else frozenset())
