"""The loss of token frequencies, which says whether a model uses the context yet."""

import math

import jax
import numpy as np
import pytest

from pretrain.objective.causal import CausalLM
from pretrain.objective.masked import MaskedLM
from pretrain.objective.masking import MaskingTables
from pretrain.objective.token_frequencies import FREQUENCY_LOSS, frequency_loss, has_left, verdict

CLS, SEP, PAD, MASK = 0, 1, 2, 3
TABLES = MaskingTables(0.8, 0.1, MASK, (CLS, SEP, PAD, MASK), 10)


def test_it_is_the_entropy_of_the_tokens():
    expected = -(3 * math.log(3 / 5) + 2 * math.log(1 / 5)) / 5
    assert frequency_loss(np.array([5, 5, 6, 5, 7])) == pytest.approx(expected, rel=1e-12)
    assert frequency_loss(np.array([9, 9])) == frequency_loss(np.array([], np.int32)) == 0


def test_no_distribution_does_better_on_the_same_tokens():
    tokens = np.random.default_rng(0).zipf(1.5, 512) % 50
    best = frequency_loss(tokens)
    for seed in range(20):
        guess = np.random.default_rng(seed).dirichlet(np.bincount(tokens, minlength=60) + 0.5)
        assert -np.log(guess[tokens]).mean() > best


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
