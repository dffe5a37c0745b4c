"""The loss of token frequencies, which says whether a model uses the context yet."""

import math

import jax
import numpy as np
import pytest
from etils import epath

from data.corpus import training_documents
from pretrain.objective import token_counts as module
from pretrain.objective.causal import CausalLM
from pretrain.objective.masked import MaskedLM
from pretrain.objective.masking import MaskingTables
from pretrain.objective.token_counts import token_counts
from pretrain.objective.token_frequencies import FREQUENCY_LOSS, frequency_loss, has_left, verdict
from pretrain.phases import resolve_phases
from tests.tiny import tiny_config, write_corpus
from tokenizer.run_tokenizer import ensure_tokenizer

CLS, SEP, PAD, MASK = 0, 1, 2, 3
TABLES = MaskingTables(0.8, 0.1, MASK, (CLS, SEP, PAD, MASK), 10)


def test_it_is_that_of_the_frequencies_of_training_text_with_one_added():
    expected = -(3 * math.log(5 / 14) + math.log(2 / 14)) / 4
    found = frequency_loss(np.array([2, 2, 1, 2]), np.array([5, 1, 4, 0]))
    assert found == pytest.approx(expected, rel=1e-12)


def test_it_hardly_depends_on_how_many_tokens_are_held_out():
    draw = np.random.default_rng(0)
    counts = np.bincount(draw.zipf(1.3, 200_000) % 2000, minlength=2000)
    many = frequency_loss(draw.zipf(1.3, 100_000) % 2000, counts)
    few = [frequency_loss(draw.zipf(1.3, 60) % 2000, counts) for _ in range(30)]
    assert abs(np.mean(few) - many) < 0.15, "the entropy of 60 tokens is more than a nat too low"


def test_tokens_are_counted_in_training_text_once(tmp_path, monkeypatch):
    config = tiny_config(write_corpus(tmp_path / "text.txt"))
    (phase,) = resolve_phases(config)
    tokenizer = ensure_tokenizer(
        config.tokenizer, config.data, epath.Path(tmp_path), model_max_length=32, progress=False
    )
    documents = list(training_documents(config.data))
    expected = np.bincount(np.concatenate(tokenizer.encode(documents)), minlength=tokenizer.vocab_size)
    counts = token_counts(epath.Path(tmp_path), phase, tokenizer, with_ends=False)
    np.testing.assert_array_equal(counts, expected)
    with monkeypatch.context() as patch:
        patch.setattr(module, "sample_ids", None)
        np.testing.assert_array_equal(
            token_counts(epath.Path(tmp_path), phase, tokenizer, with_ends=False), expected
        )
    expected[tokenizer.special.sep] = len(documents)
    np.testing.assert_array_equal(
        token_counts(epath.Path(tmp_path), phase, tokenizer, with_ends=True), expected
    )
    (tmp_path / "token_counts_0.npz").write_bytes(b"PK damaged")
    monkeypatch.setattr(module, "COUNTED", 300)
    assert 0 < token_counts(epath.Path(tmp_path), phase, tokenizer, with_ends=True).sum() < 700


def test_the_tokens_are_those_that_an_objective_may_predict():
    batch = {
        "tokens": np.array([[CLS, 5, 6, SEP, CLS, 7, SEP, PAD]], np.int32),
        "segments": np.array([[1, 1, 1, 1, 2, 2, 2, 0]], np.int32),
        "positions": np.array([[0, 1, 2, 3, 0, 1, 2, 0]], np.int32),
    }
    masked = np.asarray(MaskedLM(TABLES, 0.15).may_be_predicted(batch))
    assert batch["tokens"][masked].tolist() == [5, 6, 7]
    causal = CausalLM(SEP)
    assert batch["tokens"][np.asarray(causal.may_be_predicted(batch))].tolist() == [5, 6, SEP, 7, SEP]
    prepared = causal.prepare(jax.random.key(0), np.zeros(1, np.int32), batch)
    assert prepared.targets[prepared.weights > 0].tolist() == [5, 6, SEP, 7, SEP]


def test_a_model_has_left_them_when_it_is_clearly_below():
    assert has_left(6.5, 6.7) and not has_left(6.65, 6.7) and not has_left(7.0, 6.7)
    assert not has_left(math.nan, 6.7)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"eval/loss": 6.0, FREQUENCY_LOSS: 6.75},
            "token frequencies alone have a held-out loss of 6.75; the model has left them, by 0.75",
        ),
        (
            {"eval/loss": 7.0, FREQUENCY_LOSS: 6.75},
            "token frequencies alone have a held-out loss of 6.75; the model (7.00) is not below it: no use of "
            "the context shows yet, so train longer",
        ),
        ({"eval/loss": None, FREQUENCY_LOSS: 6.75}, ""),
        ({"eval/loss": 6.0}, ""),
    ],
)
def test_the_verdict(values, said):
    assert verdict(values) == said
