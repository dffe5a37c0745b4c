"""Packing: exact rows, and no token lost, repeated or out of place whatever the lengths."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import token_streams as tokens_module
from data.config import DataConfig
from data.document_counts import Counts
from data.document_planner import LOOK_AHEAD, DocumentPlanner, Piece
from data.packing import Rows, fill, make_packer
from data.streams import WindowReader, open_documents, window_order
from data.token_streams import Cursor, TokenStream
from tests.memory_corpus import FIRST_TOKEN, SPECIAL, Encoder, MemorySource

CLS, SEP, PAD = SPECIAL.cls, SPECIAL.sep, SPECIAL.pad


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Several chunks to a window, as with a real corpus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens_module, "SMALLEST_CHUNK", 8)
        patch.setattr(tokens_module, "LARGEST_CHUNK", 16)
        yield


def submit(texts: Sequence[str]) -> Future[list[np.ndarray]]:
    done: Future[list[np.ndarray]] = Future()
    done.set_result(Encoder()(texts))
    return done


def stream_of(
    documents: Sequence[Sequence[int]], window: int = 1, state: dict[str, Any] | None = None
) -> TokenStream:
    """A stream of these documents."""
    config = DataConfig(streams=1, window=window, eval_fraction=0.0)
    source = MemorySource([[" ".join(map(str, document)) for document in documents]])
    state = state or dict(tokens_module.FRESH)
    opened = open_documents(config, [source], 0, {0: state["start"]})[0]
    reader = WindowReader(
        opened,
        window,
        window_order(0, 0),
        number=state["window"],
        epoch=state["epoch"],
        counts=Counts.from_dict(state["counts"]),
    )
    return TokenStream(reader, submit, state, epochs=1)


def pack(
    packing: str, documents: Sequence[Sequence[int]], rows: int, seq_len: int, **changes: Any
) -> dict[str, Any]:
    """Rows of one epoch of the documents, as lists."""
    out = Rows.empty(rows, seq_len, SPECIAL)
    filled = fill(stream_of(documents, **changes), make_packer(packing, SPECIAL), out)
    return {name: array[:filled].tolist() for name, array in out.as_dict().items()}


def test_full_joins_documents_with_separators_and_pads_the_last_row() -> None:
    assert pack("full", [[11, 12, 13], [21, 22], [31, 32, 33, 34]], 9, 6) == {
        "tokens": [
            [CLS, 11, 12, 13, SEP, 21],
            [CLS, 22, SEP, 31, 32, 33],
            [CLS, 34, SEP, PAD, PAD, PAD],
        ],
        "segments": [[1] * 6, [1] * 6, [1, 1, 1, 0, 0, 0]],
        "positions": [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 0, 0]],
    }


def test_full_puts_a_separator_that_does_not_fit_into_the_next_row() -> None:
    assert pack("full", [[11, 12, 13], [21]], 9, 4)["tokens"] == [[CLS, 11, 12, 13], [CLS, SEP, 21, SEP]]


def test_full_gives_no_row_of_padding_when_an_epoch_ends_with_a_row() -> None:
    assert pack("full", [[11, 12], [21, 22]], 9, 4)["tokens"] == [[CLS, 11, 12, SEP], [CLS, 21, 22, SEP]]


def test_documents_are_kept_whole_and_apart() -> None:
    packed = pack("documents", [[11, 12, 13], [21, 22, 23], [31], [41, 42]], 9, 9, window=4)
    order = window_order(0, 0)(0, 4)
    assert sorted(order) == [0, 1, 2, 3]
    for row, segments, positions in zip(packed["tokens"], packed["segments"], packed["positions"]):
        starts = [at for at, token in enumerate(row) if token == CLS]
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], 9]), 1):
            length = row.index(SEP, start) + 1 - start
            assert segments[start:stop] == [number] * length + [0] * (stop - start - length)
            assert positions[start : start + length] == list(range(length))


def test_documents_fills_a_row_with_the_longest_that_fits() -> None:
    lengths = [5, 2, 3, 9, 2]
    planner = DocumentPlanner(Cursor(), 5, lengths.__getitem__)
    assert planner.row(12) == [Piece(0, 0, 5), Piece(2, 0, 3)]
    assert planner.row(12) == [Piece(1, 0, 2), Piece(4, 0, 2)]
    assert planner.row(12) == [Piece(3, 0, 9)]
    assert planner.row(12) == []


def test_documents_cuts_what_is_too_long_and_fills_up_after_its_last_piece() -> None:
    lengths = [10, 3, 1]
    planner = DocumentPlanner(Cursor(), 3, lengths.__getitem__)
    assert planner.row(10) == [Piece(0, 0, 8)]
    assert planner.row(10) == [Piece(0, 8, 10), Piece(1, 0, 3)]
    assert planner.row(10) == [Piece(2, 0, 1)]


def in_order(documents: Sequence[Sequence[int]], seq_len: int) -> list[list[int]]:
    rows = Rows.empty(50, seq_len, SPECIAL)
    filled = fill(stream_of(documents), make_packer("documents", SPECIAL, in_order=True), rows)
    return rows.tokens[:filled].tolist()


def test_documents_in_order_share_a_row_as_long_as_the_next_one_fits() -> None:
    assert in_order([[11, 12, 13], [21], [31, 32, 33, 34], [], [41], [51, 52]], 8) == [
        [CLS, 11, 12, 13, SEP, CLS, 21, SEP],
        [CLS, 31, 32, 33, 34, SEP, PAD, PAD],
        [CLS, 41, SEP, CLS, 51, 52, SEP, PAD],
    ]


def test_documents_in_order_fill_up_after_the_last_piece_of_a_long_one() -> None:
    assert in_order([[11], [*range(21, 34)], [41], [51]], 8) == [
        [CLS, 11, SEP, *[PAD] * 5],
        [CLS, 21, 22, 23, 24, 25, 26, SEP],
        [CLS, 27, 28, 29, 30, 31, 32, SEP],
        [CLS, 33, SEP, CLS, 41, SEP, PAD, PAD],
        [CLS, 51, SEP, *[PAD] * 5],
    ]


def test_documents_never_chooses_what_is_consumed() -> None:
    lengths = [5, 4, 3, 2]
    planner = DocumentPlanner(Cursor(0, 1, frozenset({1})), 4, lengths.__getitem__)
    assert planner.row(13) == [Piece(0, 1, 5), Piece(2, 0, 3)]
    assert planner.row(13) == [Piece(3, 0, 2)]


def test_documents_looks_no_further_ahead_than_it_says() -> None:
    lengths = [5, *[9] * (LOOK_AHEAD - 1), 3]
    planner = DocumentPlanner(Cursor(), len(lengths), lengths.__getitem__)
    assert planner.row(12) == [Piece(0, 0, 5)]
    assert planner.row(12) == [Piece(1, 0, 9)]
    lengths[LOOK_AHEAD - 1] = 3
    assert DocumentPlanner(Cursor(), len(lengths), lengths.__getitem__).row(12) == [
        Piece(0, 0, 5),
        Piece(LOOK_AHEAD - 1, 0, 3),
    ]


def test_documents_wastes_little_of_its_rows() -> None:
    lengths = np.random.default_rng(0).lognormal(4.5, 0.9, 4096).astype(int).clip(1).tolist()
    planner = DocumentPlanner(Cursor(), len(lengths), lengths.__getitem__)
    rows = 0
    while planner.row(512):
        rows += 1
    pieces = sum(-(-length // 510) for length in lengths)
    assert (sum(lengths) + 2 * pieces) / (512 * rows) > 0.98


def test_lines_gives_each_document_rows_of_its_own() -> None:
    packed = pack("lines", [[11, 12, 13], [21, 22, 23, 24, 25]], 9, 5)
    assert packed["tokens"] == [
        [CLS, 11, 12, 13, SEP],
        [CLS, 21, 22, 23, SEP],
        [CLS, 24, 25, SEP, PAD],
    ]
    assert packed["segments"][2] == [1, 1, 1, 1, 0] and packed["positions"][2] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("packing", ["full", "documents", "best_fit", "lines"])
def test_documents_without_tokens_give_nothing(packing: str) -> None:
    with_empty = pack(packing, [[], [11, 12], [], [], [21], []], 9, 7)
    assert with_empty == pack(packing, [[11, 12], [21]], 9, 7)


documents_strategy = st.lists(st.integers(0, 23), min_size=1, max_size=40).filter(any)
shapes_strategy = st.lists(st.tuples(st.integers(1, 5), st.integers(3, 17)), min_size=1, max_size=6)


def numbered(lengths: Sequence[int]) -> list[list[int]]:
    """Documents of these lengths; no token occurs twice."""
    ends = np.cumsum(lengths) + FIRST_TOKEN
    return [list(range(end - length, end)) for end, length in zip(ends.tolist(), lengths)]


def pieces_of(rows: Rows) -> Iterator[list[int]]:
    """What stands in each segment of each row; checks segments, positions and special tokens on the way."""
    for tokens, segments, positions in zip(rows.tokens, rows.segments, rows.positions):
        assert (np.diff(np.append(segments, 0)) <= 1).all() and (tokens[segments == 0] == PAD).all()
        assert (positions[segments == 0] == 0).all()
        for segment in range(1, segments.max() + 1):
            inside = np.flatnonzero(segments == segment)
            assert (np.diff(inside) == 1).all(), "a segment is contiguous"
            assert positions[inside].tolist() == list(range(len(inside)))
            assert tokens[inside[0]] == CLS
            yield tokens[inside[1:]].tolist()


@settings(deadline=None, max_examples=150)
@given(
    documents_strategy,
    shapes_strategy,
    st.integers(1, 12),
    st.sampled_from(["documents", "best_fit", "lines"]),
)
def test_pieces_hold_every_token_once_in_order_however_lengths_and_shapes_fall(
    lengths: list[int], shapes: list[tuple[int, int]], window: int, packing: str
) -> None:
    documents = numbered(lengths)
    state, pieces = None, []
    for count, seq_len in [*shapes, (200, 9)]:
        stream = stream_of(documents, window, state)
        rows = Rows.empty(count, seq_len, SPECIAL)
        filled = fill(stream, make_packer(packing, SPECIAL), rows)
        assert (rows.segments[filled:] == 0).all() and (rows.segments[:filled, 0] == 1).all()
        for piece in pieces_of(rows):
            assert piece[-1] == SEP and 1 < len(piece) < seq_len
            pieces.append(piece[:-1])
        state = stream.state()
    assert state["epoch"] == 1
    found = sorted(pieces)
    joined = [token for piece in found for token in piece]
    assert joined == [token for document in documents for token in document]
    by_first = {piece[0]: piece for piece in pieces}
    for document in documents:
        if document and len(document) <= min(seq_len for _, seq_len in [*shapes, (200, 9)]) - 2:
            assert by_first[document[0]] == document, "a document that fits a row is whole"


@settings(deadline=None, max_examples=150)
@given(documents_strategy, shapes_strategy, st.integers(1, 12))
def test_full_rows_laid_end_to_end_are_the_documents_in_the_order_of_the_stream(
    lengths: list[int], shapes: list[tuple[int, int]], window: int
) -> None:
    documents = numbered(lengths)
    order = window_order(0, 0)
    expected = []
    for number, start in enumerate(range(0, len(documents), window)):
        part = documents[start : start + window]
        for index in order(number, len(part)):
            expected += [*part[index], SEP] if part[index] else []
    state, found = None, []
    for count, seq_len in [*shapes, (400, 9)]:
        stream = stream_of(documents, window, state)
        rows = Rows.empty(count, seq_len, SPECIAL)
        filled = fill(stream, make_packer("full", SPECIAL), rows)
        assert (rows.segments[:filled][:-1] == 1).all(), "only an epoch's last row is padded"
        found += [token for piece in pieces_of(rows) for token in piece]
        state = stream.state()
    assert found == expected and state["epoch"] == 1


def planned(lengths, seq_len, look_ahead, cursor, whole):
    """Every row of a window as its pieces, and where the cursor stands after each."""
    planner = DocumentPlanner(cursor, len(lengths), lengths.__getitem__, look_ahead)
    rows, states = [], []
    while True:
        piece = planner.whole_rows(seq_len, 3) if whole else None
        if piece is not None:
            width = seq_len - 2
            starts = range(piece.start, piece.stop, width)
            rows += [[(piece.document, start, start + width)] for start in starts]
            states += [None] * (len(starts) - 1) + [cursor.as_dict()]
            continue
        pieces = planner.row(seq_len)
        if not pieces:
            return rows, states
        rows.append([tuple(piece) for piece in pieces])
        states.append(cursor.as_dict())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(3, 12), st.integers(1, 6))
def test_rows_that_one_document_fills_are_the_same_at_once_as_one_by_one(lengths, seq_len, look_ahead):
    rows, states = planned(lengths, seq_len, look_ahead, Cursor(), whole=True)
    expected, after = planned(lengths, seq_len, look_ahead, Cursor(), whole=False)
    assert rows == expected
    assert all(state in (None, other) for state, other in zip(states, after, strict=True))
