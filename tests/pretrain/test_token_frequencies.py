"""The loss of token frequencies, which says whether a model uses the context yet."""

import math

import numpy as np
import pytest

from pretrain.objective.token_frequencies import FREQUENCY_LOSS, frequency_loss, has_left, verdict

CLS, SEP = 0, 1


def rows(*tokens: list[int]) -> dict[str, np.ndarray]:
    """Rows of these tokens; -1 is padding."""
    array = np.array(tokens, np.int32)
    return {"tokens": np.maximum(array, 0), "segments": (array >= 0).astype(np.int32)}


def test_it_is_the_entropy_of_the_tokens_that_may_be_predicted():
    held_out = rows([CLS, 5, 5, 6, SEP, -1], [CLS, 5, 7, SEP, -1, -1])
    expected = -(3 * math.log(3 / 5) + 2 * math.log(1 / 5)) / 5
    assert frequency_loss(held_out, (CLS, SEP)) == pytest.approx(expected, rel=1e-12)


def test_no_distribution_does_better_on_the_same_tokens():
    tokens = np.random.default_rng(0).zipf(1.5, (8, 64)) % 50 + 2
    best = frequency_loss(rows(*tokens.tolist()), (CLS, SEP))
    for seed in range(20):
        guess = np.random.default_rng(seed).dirichlet(np.bincount(tokens.ravel(), minlength=60) + 0.5)
        assert -np.log(guess[tokens]).mean() > best


@pytest.mark.parametrize(
    "held_out", [rows([CLS, SEP, -1, -1]), rows([CLS, 9, 9, SEP])], ids=["nothing", "one token"]
)
def test_rows_without_a_choice_have_none(held_out):
    assert frequency_loss(held_out, (CLS, SEP, 99)) == 0


def test_a_special_token_that_no_row_has_is_passed_over():
    assert frequency_loss(rows([CLS, 2, 3, SEP]), (CLS, SEP, 10**6)) == pytest.approx(math.log(2))


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
            "token frequencies alone have a held-out loss of 6.75; the model (7.00) is still there: it does not use "
            "the context yet, so train longer",
        ),
        ({"eval/loss": None, FREQUENCY_LOSS: 6.75}, ""),
        ({"eval/loss": 6.0}, ""),
    ],
)
def test_the_verdict(values, said):
    assert verdict(values) == said
