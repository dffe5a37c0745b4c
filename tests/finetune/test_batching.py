"""Every example once an epoch, in rows of a few static lengths, the same lengths whatever the seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.texts.batching import Plan, choose_lengths, evaluation_batches, rows
from finetune.texts.encoding import Encoded

LENGTHS = (8, 16, 32)


def encoded(lengths, labels=None):
    width = max(lengths)
    tokens = np.full((len(lengths), width), 1, np.int32)
    for row, length in enumerate(lengths):
        tokens[row, :length] = 100 + row
    types = np.zeros((len(lengths), width), np.int8)
    return Encoded(tokens, types, np.array(lengths), labels, 1, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 32), min_size=1, max_size=80),
    st.integers(1, 9),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_an_epoch_has_every_example_once_in_rows_that_hold_it(lengths, batch, seed, epoch):
    plan = Plan.of(lengths, LENGTHS, batch)
    batches = plan.epoch(seed, epoch)
    row_lengths = plan.batch_lengths(epoch)
    assert len(batches) == len(row_lengths) == plan.steps == -(-len(lengths) // batch)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert sum(len(chosen) < batch for chosen in batches) <= 1
    for chosen, length in zip(batches, row_lengths):
        assert max(lengths[example] for example in chosen) <= length


def test_the_lengths_of_an_epoch_do_not_depend_on_the_seed_but_its_batches_do():
    plan = Plan.of(np.random.default_rng(0).integers(1, 33, 100), LENGTHS, 8)
    first, second = plan.epoch(0, 0), plan.epoch(1, 0)
    assert [len(chosen) for chosen in first] == [len(chosen) for chosen in second]
    assert any(not np.array_equal(a, b) for a, b in zip(first, second))
    assert plan.batch_lengths(0) != plan.batch_lengths(1)
    assert not np.array_equal(np.concatenate(plan.epoch(0, 0)), np.concatenate(plan.epoch(0, 1)))


def test_batches_are_as_short_as_their_bucket():
    plan = Plan.of([5] * 16 + [30] * 16, LENGTHS, 8)
    assert sorted(plan.batch_lengths(0)) == [8, 8, 32, 32]


def test_left_over_examples_go_up_to_the_next_length():
    plan = Plan.of([5] * 9 + [12] * 7 + [30], LENGTHS, 8)
    assert sorted(plan.batch_lengths(0)) == [8, 16, 32]
    assert sorted(map(len, plan.epoch(0, 0))) == [1, 8, 8]


def test_rows_are_padded_and_those_that_fill_up_weigh_nothing():
    made = rows(encoded([3, 5], np.array([1, 2], np.int32)), np.array([1]), 2, 8)
    np.testing.assert_array_equal(made.tokens, [[101] * 5 + [1] * 3] * 2)
    np.testing.assert_array_equal(made.segments, [[1] * 5 + [0] * 3] * 2)
    np.testing.assert_array_equal(made.labels, [2, 2])
    np.testing.assert_array_equal(made.weights, [1.0, 0.0])


def test_rows_may_be_shorter_than_the_longest_example():
    made = rows(encoded([3, 20]), np.array([0]), 1, 8)
    np.testing.assert_array_equal(made.tokens, [[100] * 3 + [1] * 5])


@pytest.mark.parametrize("count", [1, 7, 8, 9, 25])
def test_evaluation_takes_every_example_once_and_short_ones_together(count):
    lengths = np.random.default_rng(count).integers(1, 33, count).tolist()
    taken, previous = [], 0
    for chosen, made in evaluation_batches(encoded(lengths), LENGTHS, 8):
        assert made.tokens.shape[0] == 8 and made.weights.sum() == len(chosen)
        assert made.tokens.shape[1] in LENGTHS and made.tokens.shape[1] >= previous
        previous = made.tokens.shape[1]
        taken += chosen.tolist()
    assert sorted(taken) == list(range(count))


def test_lengths_are_few_multiples_of_eight_that_hold_everything():
    lengths = np.random.default_rng(0).integers(4, 100, 1000)
    chosen = choose_lengths(lengths, 128)
    assert len(chosen) <= 6 and chosen == tuple(sorted(chosen))
    assert all(length % 8 == 0 for length in chosen) and chosen[-1] >= lengths.max()
    assert choose_lengths(np.array([90, 100]), 98 + 2)[-1] == 100
    assert choose_lengths(np.array([7]), 128) == (8,)
