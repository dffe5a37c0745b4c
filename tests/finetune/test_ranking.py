"""Ranks of second texts, and their scores: exact values of small cases."""

import numpy as np
import pytest

from finetune.kinds import EMBEDDING, SIMILARITY
from finetune.results import ranking
from finetune.results.predictions_picture import picture_of_ranks
from finetune.results.ranking import ranking_loss, ranking_scores, ranks


def vectors(first: list[list[float]], second: list[list[float]]) -> np.ndarray:
    return np.stack([np.array(first, np.float32), np.array(second, np.float32)], axis=1)


THREE = vectors([[1, 0], [0, 1], [1, 0]], [[1, 0], [1, 0], [0, 1]])


def test_the_right_text_is_ranked_among_the_distinct_ones():
    assert ranks(THREE, np.array([0, 0, 1])).tolist() == [1, 2, 2]
    assert ranks(THREE, np.array([0, 1, 2])).tolist() == [2, 3, 3]  # as near counts as nearer


def test_equal_vectors_of_all_texts_score_worst():
    same = np.ones((5, 2, 3), np.float32)
    assert ranks(same, np.arange(5)).tolist() == [5] * 5


def test_scores_of_ranks_are_those_of_their_definitions():
    found = ranking_scores(np.array([1, 3, 10, 11]))
    assert found["recall_at_1"] == 0.25 and found["recall_at_10"] == 0.75
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 10 + 1 / 11) / 4)
    assert found["ndcg_at_10"] == pytest.approx((1 + 1 / np.log2(4) + 1 / np.log2(11)) / 4)


def test_blocks_change_nothing(monkeypatch):
    drawn = np.random.default_rng(0).normal(size=(23, 2, 6)).astype(np.float32)
    numbers = np.arange(23) // 2
    drawn[1::2, 1] = drawn[:-1:2, 1]  # equal texts have equal vectors
    whole = ranks(drawn, numbers), ranking_loss(drawn, numbers)
    monkeypatch.setattr(ranking, "MOST_SIMILARITIES", 40)
    np.testing.assert_array_equal(ranks(drawn, numbers), whole[0])
    assert ranking_loss(drawn, numbers) == pytest.approx(whole[1], rel=1e-6)


def test_the_kinds_report_losses_and_cosines_of_what_they_rank_or_score():
    logits = 3 * THREE.reshape(3, 4)
    assert EMBEDDING.predictions(logits).tolist() == [1, 0, 0]
    assert EMBEDDING.said((), logits)[0] == ("1.0000",)
    labels = np.array([0, 0, 1])
    assert EMBEDDING.mean_loss(logits, labels) == pytest.approx(np.mean(np.log1p(np.exp([-9, 9, 9]))))
    assert EMBEDDING.scores(("mrr",), (), logits, labels) == {"mrr": pytest.approx(2 / 3)}
    scores = np.array([5.0, 1.0, 1.0], np.float32)
    assert SIMILARITY.mean_loss(logits, scores) == 0
    assert SIMILARITY.scores(("spearman",), (), logits, scores) == {"spearman": pytest.approx(1)}


def test_ranks_are_drawn():
    assert picture_of_ranks(np.array([1, 2, 3, 4, 500]), "$title").startswith(b"\x89PNG")
