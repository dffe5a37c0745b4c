"""Best-fit packing: little padding, no document cut that fits a row, and the same rows from any position."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from base.errors import UserError
from data import best_fit as module
from data.batches import check_data
from data.best_fit import BestFitPlanner, best_fit, rows_of_best_fit
from data.config import DataConfig
from data.document_planner import DocumentPlanner
from data.packing import Rows, fill, make_packer
from data.token_streams import Cursor
from tests.data.test_packing import SPECIAL, numbered, stream_of
from tests.memory_corpus import FIRST_TOKEN


def rows_of(
    lengths: Sequence[int], seq_len: int, cursor: Cursor
) -> list[tuple[list[tuple[int, int, int]], dict]]:
    """Every row of a window as its pieces, and the position after it."""
    planner, rows = BestFitPlanner(cursor, len(lengths), lengths.__getitem__, seq_len), []
    while (piece := planner.whole_rows(1)) or (pieces := planner.row()):
        rows.append(([tuple(piece)] if piece else [tuple(each) for each in pieces], cursor.as_dict()))
    return rows


def test_the_ends_of_long_documents_share_rows() -> None:
    lengths = [13, 3, 11, 1]  # in rows of 10: a whole row and 5, 3, a whole row and 3, 1
    found = [pieces for pieces, _ in rows_of(lengths, 10, Cursor())]
    assert found == [
        [(0, 0, 8)],
        [(0, 8, 13), (3, 0, 1)],
        [(2, 0, 8)],
        [(1, 0, 3), (2, 8, 11)],
    ]
    assert rows_of_best_fit(lengths, 10) == 4


def test_each_document_goes_to_the_fullest_row_that_has_room() -> None:
    assert best_fit([(5, 0), (6, 1), (2, 2), (1, 3)], 10) == [[0, 3], [1], [2]]
    assert best_fit([(5, 0), (6, 1), (1, 2), (0, 3)], 11) == [[0], [1, 2], [3]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(3, 20), st.integers(2, 30))
def test_rows_are_the_same_from_every_position(lengths: list[int], seq_len: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        rows = rows_of(lengths, seq_len, Cursor())
        assert len(rows) == rows_of_best_fit(lengths, seq_len)
        assert all(sum(stop - start + 2 for _, start, stop in pieces) <= seq_len for pieces, _ in rows)
        for number, (_, state) in enumerate(rows):
            assert rows_of(lengths, seq_len, Cursor.from_dict(state)) == rows[number + 1 :]
    cut = {
        document for pieces, _ in rows for document, start, stop in pieces if stop - start < lengths[document]
    }
    assert cut == {number for number, length in enumerate(lengths) if length > seq_len - 2}


packings = st.lists(
    st.tuples(
        st.sampled_from(["best_fit", "documents", "full", "lines"]), st.integers(1, 4), st.integers(3, 17)
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 23), min_size=1, max_size=40).filter(any), packings, st.integers(2, 12))
def test_a_run_may_change_its_packing_anywhere(
    lengths: list[int], packings: list[tuple[str, int, int]], window: int
) -> None:
    documents = numbered(lengths)
    state, found = None, []
    for packing, count, seq_len in [*packings, ("full", 400, 9)]:
        stream = stream_of(documents, window, state)
        rows = Rows.empty(count, seq_len, SPECIAL)
        fill(stream, make_packer(packing, SPECIAL), rows)
        found += rows.tokens[rows.tokens >= FIRST_TOKEN].tolist()
        state = stream.state()
    assert state["epoch"] == 1
    assert sorted(found) == [token for document in documents for token in document]


@pytest.mark.parametrize("seq_len", [128, 512])
def test_rows_have_less_padding_than_those_of_documents(seq_len: int) -> None:
    lengths = np.random.default_rng(0).lognormal(5.5, 0.9, 2048).astype(int).clip(1).tolist()
    planner, rows = DocumentPlanner(Cursor(), len(lengths), lengths.__getitem__), 0
    while planner.row(seq_len):
        rows += 1
    used = sum(lengths) + 2 * sum(-(-length // (seq_len - 2)) for length in lengths)
    padding = [1 - used / (seq_len * number) for number in (rows, rows_of_best_fit(lengths, seq_len))]
    assert padding[1] < 0.01 < padding[0]


def test_a_window_of_one_has_no_choice() -> None:
    with pytest.raises(
        UserError, match=r"window=1 has no choice; raise it, or set config.data.packing='documents'"
    ):
        check_data(DataConfig(packing="best_fit", window=1))
