"""Batches of packed rows, prepared in the background; each holds the state of every stream at its end."""

import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np

from base.errors import UserError
from data.config import DataConfig
from data.corpus import open_sources
from data.document_counts import Counts, describe_dropped
from data.document_protocol import Document
from data.packing import Packer, Rows, fill, make_packer
from data.prepared.documents import cancel_reads
from data.source_protocol import Source
from data.special_tokens import SpecialTokens
from data.streams import PREPARED_WINDOW, WindowReader, in_given_order, open_documents, window_order
from data.token_streams import FRESH, Encode, TokenStream, ids_of, taken

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.2
"""Seconds of one wait for a batch. A longer wait repeats it, so that signal handlers can run in between."""

LEAST_AHEAD, MOST_AHEAD = 4, 64
"""Batches that are prepared ahead by default."""
TOKENS_AHEAD = 1 << 16
"""Tokens that are prepared ahead by default, between these two limits. All streams wait for the tokenizer at about the
same time, for longer than a few small steps take."""

SMALL_WINDOW = 32
"""Number of documents. Each window ends with a row that is not filled up; smaller windows have many such rows."""

ENCODING_THREADS = 2
"""Calls to `encode` at a time: one holds the interpreter's lock to build arrays of ids while the other tokenizes."""


@dataclass(frozen=True)
class Batch:
    """This process's rows of one global batch, b rows of S tokens."""

    arrays: dict[str, np.ndarray]
    """tokens, segments, positions: int32 [b, S]."""
    states: dict[str, Any]
    """Each stream's state after this batch, by the stream's number; `open_batches` can continue from it."""
    wait: float = 0.0
    """Seconds that the consumer waited for this batch."""


def open_batches(
    config: DataConfig,
    encode: Encode,
    special: SpecialTokens,
    *,
    seed: int,
    seq_len: int,
    global_batch: int,
    rows: Sequence[int] | None = None,
    states: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    sources: Sequence[Source] | None = None,
) -> "BatchIterator":
    """Open a process's share of the run's batches. Close it afterwards, or use it in a `with` block.

    Row r of a batch of B rows comes from stream r // (B / G), where G is the number of streams. So the batches do not
    depend on the number of processes. A state does not depend on seq_len, global_batch or packing: a run may continue
    with other values of these.

    Args:
      config: the data.
      encode: function from texts to ids; background threads call it.
      special: ids of the special tokens in a row.
      seed: the run's seed.
      seq_len: row length S, in tokens.
      global_batch: number B of rows in a batch, over all processes.
      rows: numbers of the rows of each batch that this process makes, ascending; None for all.
      states: `Batch.states` to continue from, for at least the streams of `rows`; None to start at the beginning.
      epochs: number of passes over the corpus; None for no end. A stream that ends before the others gives rows of
        padding. An iterator over a part of the rows never ends: it goes on with padding, because other processes'
        streams may still have documents. `corpus.count_steps` gives the number of steps.
      sources: the open source, or the open members of the mix; None to open the sources in the config.

    Raises:
      UserError: settings that cannot work together, or states of another run.
    """
    rows = range(global_batch) if rows is None else rows
    streams = check(config, seq_len, global_batch, rows, epochs)
    _check_states(states, config.streams, streams)
    if config.source == "prepared":
        config = replace(config, window=PREPARED_WINDOW)
    if config.packing in ("documents", "best_fit") and 1 < config.window < SMALL_WINDOW:
        log.warning(
            "a row holds documents of one window only, so with config.data.window=%d most of it may be padding; set it "
            "to %d or more, or to 1 to fill rows in the order of the files",
            config.window,
            SMALL_WINDOW,
        )
    sources = open_sources(config) if sources is None else sources

    chosen = {stream: states[str(stream)] if states else FRESH for stream in streams}
    size, complete = len(rows), len(rows) == global_batch

    def start(executor: Executor) -> BatchMaker:
        return BatchMaker(
            open_streams(config, encode, executor, seed, chosen, sources, epochs),
            {stream: make_packer(config.packing, special, in_order=config.window == 1) for stream in streams},
            lambda: Rows.empty(size, seq_len, special),
            complete,
        )

    depth = config.prefetch or batches_ahead(size * seq_len)
    return BatchIterator(start, depth, min(state["epoch"] for state in chosen.values()))


def batches_ahead(tokens: int) -> int:
    """The number of batches that are prepared ahead by default, if this process's share of one has so many tokens."""
    return max(LEAST_AHEAD, min(MOST_AHEAD, TOKENS_AHEAD // tokens))


def dropped(states: Mapping[str, Any]) -> dict[str, int]:
    """Number of documents that the sources have dropped since the run began, by reason, summed over all states."""
    counts = Counts()
    for state in states.values():
        counts.add(Counts.from_dict(state["counts"]))
    return dict(sorted(counts.dropped.items()))


def check_data(config: DataConfig, where: str = "config.data") -> None:
    """Refuse values outside their range before anything is read.

    Args:
      config: the data.
      where: the path of `config` in messages.

    Raises:
      UserError: streams or window is below 1, prefetch is below 0, or eval_fraction is not in [0, 1).
    """
    for name in ("streams", "window"):
        if getattr(config, name) < 1:
            raise UserError(f"{where}.{name}={getattr(config, name)} should be 1 or more")
    if config.packing == "best_fit" and config.window == 1:
        raise UserError(
            f"{where}.packing='best_fit' chooses among the documents of a window, and {where}.window=1 has no choice; "
            f"raise it, or set {where}.packing='documents', which fills rows in the order of the files"
        )
    if config.prefetch < 0:
        raise UserError(f"{where}.prefetch={config.prefetch} should be 1 or more, or 0 for the default")
    if not 0 <= config.eval_fraction < 1:
        raise UserError(f"{where}.eval_fraction={config.eval_fraction} should be at least 0 and below 1")


def check(
    config: DataConfig, seq_len: int, global_batch: int, rows: Sequence[int], epochs: int | None
) -> list[int]:
    """Return the numbers of the streams of these rows; raise UserError if settings cannot work together."""
    check_data(config)
    if seq_len < 3:
        raise UserError(
            f"config.seq_len={seq_len} should be at least 3: a row holds a token between two special ones"
        )
    if global_batch < 1 or global_batch % config.streams:
        raise UserError(
            f"config.global_batch={global_batch} is not a multiple of config.data.streams={config.streams}; "
            "change one of them"
        )
    if epochs is not None and config.source == "mix":
        raise UserError(
            "a mix has no epochs: its sources end at different times; set config.steps instead of config.epochs"
        )
    if epochs is not None and epochs < 1:
        raise UserError(f"config.epochs={epochs} should be at least 1")
    per_stream = global_batch // config.streams
    streams = sorted({row // per_stream for row in rows})
    if not streams or list(rows) != [
        row for stream in streams for row in range(stream * per_stream, (stream + 1) * per_stream)
    ]:
        raise UserError(
            f"the {len(rows)} rows of this process hold only a part of a stream ({per_stream} rows each): "
            f"config.data.streams={config.streams} should be a multiple of the number of processes. If a process has "
            "rows that are not adjacent, it should be a multiple of the number of devices that share a batch"
        )
    return streams


def _check_states(states: Mapping[str, Any] | None, count: int, streams: Sequence[int]) -> None:
    if states is None:
        return
    missing = [stream for stream in streams if str(stream) not in states]
    beyond = [name for name in states if int(name) >= count]
    if missing or beyond:
        raise UserError(
            f"config.data.streams={count}, but the saved state has {len(states)} streams; the number is fixed for a "
            "run: set it back, or start in a new workdir"
        )


def open_streams(
    config: DataConfig,
    encode: Encode,
    executor: Executor,
    seed: int,
    states: Mapping[int, Mapping[str, Any]],
    sources: Sequence[Source],
    epochs: int | None,
) -> dict[int, TokenStream]:
    """Open the streams in `states`, each at its state; they tokenize in `executor`."""
    documents = open_documents(
        config,
        sources,
        seed,
        {stream: state["start"] for stream, state in states.items()},
        {
            stream: state["start"] if state["size"] is None else state.get("end")
            for stream, state in states.items()
        },
    )

    def encoded(documents: Sequence[Document]) -> "Future[list[np.ndarray]]":
        return executor.submit(ids_of, encode, documents)

    submit = taken if config.source == "prepared" else encoded
    opened = {}
    for stream, state in states.items():
        windows = WindowReader(
            documents[stream],
            config.window,
            in_given_order if config.source == "prepared" else window_order(seed, stream),
            number=state["window"],
            epoch=state["epoch"],
            counts=Counts.from_dict(state["counts"]),
        )
        opened[stream] = TokenStream(windows, submit, state, epochs)
    return opened


class BatchMaker:
    """Makes one batch after another, on the caller's thread."""

    def __init__(
        self,
        streams: Mapping[int, TokenStream],
        packers: Mapping[int, Packer],
        blank: Callable[[], Rows],
        complete: bool,
    ):
        """Fill `blank()` rows, an equal share from each stream. `complete`: these are all streams of the run."""
        for stream in streams.values():
            stream.prepare()
        self._streams = streams
        self._packers = packers
        self._blank = blank
        self._complete = complete

    def make(self) -> Batch | None:
        """The next batch; None if all streams of the run have finished their epochs."""
        rows = self._blank()
        share = len(rows) // len(self._streams)
        filled = 0
        for index, (number, stream) in enumerate(self._streams.items()):
            part = rows.part(slice(index * share, (index + 1) * share))
            filled += fill(stream, self._packers[number], part)
        if not filled and self._complete:
            return None
        states = {str(number): stream.state() for number, stream in self._streams.items()}
        return Batch(rows.as_dict(), states)


class BatchIterator(Iterator[Batch]):
    """Iterates over batches that a background thread prepares."""

    def __init__(self, start: Callable[[Executor], BatchMaker], depth: int, epoch: int = 0):
        """Keep `depth` batches ready.

        Args:
          start: function that opens the streams; the background thread calls it.
          depth: number of batches to keep ready.
          epoch: number of epochs that every stream has completed.
        """
        self._epoch = epoch
        self._states: Mapping[str, Any] = {}
        self._told: dict[str, int] = {}
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
        self._stop = threading.Event()
        self._end: BaseException | None = None
        executor = ThreadPoolExecutor(ENCODING_THREADS, thread_name_prefix="tokenize")
        # The thread has no reference to this object. So the garbage collector can free an iterator that nobody closed,
        # and the finalizer then stops the thread.
        self._thread = threading.Thread(
            target=_produce, args=(start, executor, self._ready, self._stop), name="batches", daemon=True
        )
        self._finalizer = weakref.finalize(self, _shut_down, executor, self._ready, self._stop)
        self._thread.start()

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
          UserError: bad input in the batch.
        """
        if self._end is not None:
            raise self._end
        begin = time.perf_counter()
        item = self._wait()
        if isinstance(item, Batch):
            self._states = item.states
            if (epoch := min(state["epoch"] for state in item.states.values())) > self._epoch:
                self._epoch = epoch
                self._tell_dropped()
            return replace(item, wait=time.perf_counter() - begin)
        self._end = StopIteration() if item is None else item
        raise self._end

    def close(self) -> None:
        """Stop the background work; after this there are no more batches."""
        self._tell_dropped()
        self._end = self._end or StopIteration()
        self._finalizer()
        self._thread.join(timeout=5)

    def _wait(self) -> Batch | BaseException | None:
        while True:
            try:
                return self._ready.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                continue

    def _tell_dropped(self) -> None:
        """Log the number of dropped documents of this process's streams, if it has changed since the last log."""
        total = dropped(self._states)
        if total != self._told:
            log.info(
                "documents of %d streams so far, counted again in each epoch: %s",
                len(self._states),
                describe_dropped(total),
            )
            self._told = total

    def __enter__(self) -> "BatchIterator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _produce(
    start: Callable[[Executor], BatchMaker],
    executor: Executor,
    ready: "queue.Queue[Batch | BaseException | None]",
    stop: threading.Event,
) -> None:
    item: Batch | BaseException | None
    maker = None
    while not stop.is_set():
        try:
            maker = maker or start(executor)
            item = maker.make()
        except BaseException as error:
            item = error
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.05)
                break
            except queue.Full:
                continue
        if not isinstance(item, Batch):
            return


def _shut_down(
    executor: Executor, ready: "queue.Queue[Batch | BaseException | None]", stop: threading.Event
) -> None:
    stop.set()
    executor.shutdown(wait=False, cancel_futures=True)
    cancel_reads()
    while not ready.empty():
        ready.get_nowait()
