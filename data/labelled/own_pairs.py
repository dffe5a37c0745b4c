"""Pairs of texts that belong together, for embeddings: from the user's own files or from any data set of the hub.

Training reads pairs, and a hard negative of each where config.data.negative names one. Evaluation reads pairs with
scores of their similarity where there is a column of scores; else pairs whose second texts are ranked.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from base.errors import UserError
from data.labelled.classes import key
from data.labelled.config import LabelledConfig
from data.labelled.example_rows import Collected, Columns, collect
from data.labelled.examples import Examples, LabelledData, Limits
from data.labelled.held_out_examples import check_share, held_out
from data.labelled.labels import as_array, read_if_known, read_name, read_score
from data.labelled.own_sources import OwnSource, own_source
from data.labelled.tasks import EMBEDDING, SIMILARITY, Task
from data.sources.documents import FlawError, value_of

logger = logging.getLogger(__name__)

POSITIVE, SCORE, LABEL = "config.data.positive_labels", "config.data.score", "config.data.label"
SIMILARITY_METRICS = ("pearson", "spearman")
RANKING_METRICS = ("recall_at_1", "recall_at_10", "mrr", "ndcg_at_10")
MOST_SHOWN = 10


def read_pairs(
    config: LabelledConfig, parts: Collection[str], limits: Limits, *, hold_out: bool = False
) -> LabelledData:
    """Read pairs of texts.

    If the first example to evaluate on has a score (config.data.score), labels of the evaluation sets are scores. Else
    labels are numbers of the second texts: pairs with equal second texts have the same number.

    Args:
      config: the run's config.data.
      parts: the parts to return, among train, evaluations and tests.
      limits: largest number of pairs in each set.
      hold_out: whether to hold out a share of the training pairs if there are none to evaluate on.

    Raises:
      UserError: a mistake in the config or in the data; the message names the line.
    """
    if not config.text_pair:
        raise UserError(
            "config.data.text_pair is empty, but config.kind=embedding reads pairs of texts; set it to the column of "
            "the second text"
        )
    check_share(config)
    reader = _Reader(config, own_source(config))
    sets: dict[str, Examples] = {}
    has, scored = reader.source.has, reader.has_scores("validation")
    if has("train") and ("train" in parts or (hold_out and not has("validation"))):
        train = reader.pairs("train", negatives=True)
        if hold_out and not has("validation"):
            sets |= _held_out(reader, train, limits)
        else:
            sets["train"] = reader.ranked("train", train.first(limits.train), limits.train)
    if has("validation") and "evaluations" in parts:
        sets["validation"] = _evaluated(reader, "validation", limits.evaluation, scored=scored)
    if has("test") and "tests" in parts:
        sets["test"] = _evaluated(reader, "test", None, scored=scored)
    evaluations = {
        name: each for name, each in sets.items() if name == "validation" and "evaluations" in parts
    }
    tests = {name: each for name, each in sets.items() if name == "test"}
    metrics = SIMILARITY_METRICS if scored else RANKING_METRICS
    task = Task(
        name="",
        title=reader.source.title,
        texts=(config.text, config.text_pair),
        labels=(),
        metrics=metrics,
        chooses=metrics[-1],
        evaluations=tuple(evaluations),
        tests=tuple(tests),
        kind=SIMILARITY if scored else EMBEDDING,
    )
    return LabelledData(task, sets.get("train") if "train" in parts else None, evaluations, tests)


class _Reader:
    """A reader of the splits of a source."""

    def __init__(self, config: LabelledConfig, source: OwnSource):
        self.config, self.source = config, source
        self.texts = (config.text, config.text_pair)
        self.settings = {
            config.text: "config.data.text",
            config.text_pair: "config.data.text_pair",
            config.negative: "config.data.negative",
            config.score: SCORE,
            config.label: LABEL,
        }

    def has_scores(self, split: str) -> bool:
        """Whether the pairs of a split have scores: the column of scores is set, or is there by its default name."""
        if not self.config.score or not self.source.has(split):
            return False
        if self.config.score != LabelledConfig.score:
            return True
        row = next(self.source.rows(split, {}), None)
        try:
            return row is not None and value_of(row.fields, self.config.score, SCORE) is not None
        except FlawError:
            return False

    def pairs(self, split: str, *, negatives: bool = False) -> Collected:
        """The pairs of a split whose label is among config.data.positive_labels; all, where it is empty."""
        wanted = {key(name) for name in self.config.positive_labels}
        more = (self.config.negative,) if negatives and self.config.negative else ()
        columns = Columns((*self.texts, *more), self.config.label if wanted else "", settings=self.settings)
        found = self._collected(split, columns, read_name(LABEL) if wanted else None)
        if not wanted:
            return found
        kept = [row for row, label in enumerate(found.labels) if key(label) in wanted]
        if not kept:
            labels = sorted(set(found.labels))
            more_of_them = ", ..." if len(labels) > MOST_SHOWN else ""
            raise UserError(
                f"{self.source.origin(split)}: no pair has one of {POSITIVE}={list(self.config.positive_labels)}; the "
                f"labels are {', '.join(map(repr, labels[:MOST_SHOWN]))}{more_of_them}"
            )
        logger.info(
            "%s: %d of %d pairs are kept, by %s",
            *(self.source.origin(split), len(kept), len(found.labels), POSITIVE),
        )
        return found.chosen(kept)

    def ranked(self, split: str, pairs: Collected, limit: int | None, note: str = "") -> Examples:
        """Pairs whose labels are the numbers of their second texts."""
        numbers: dict[str, int] = {}
        labels = [numbers.setdefault(text, len(numbers)) for text in pairs.texts[1]]
        return self._examples(split, pairs, np.array(labels, np.int32), limit, note)

    def scored(self, split: str, limit: int | None) -> Examples:
        """Pairs with scores; in a test set scores may be missing."""
        is_test = split == "test"
        read, unknown = read_score(SCORE, "score"), list[str]()
        columns = Columns(self.texts, self.config.score, settings=self.settings, may_lack_label=is_test)
        found = self._collected(split, columns, read_if_known(read, unknown) if is_test else read, limit)
        if unknown:
            logger.warning(
                "config.data.test: %d of %d pairs have no score that can be read; the first: %s",
                *(len(unknown), len(found.ids), unknown[0]),
            )
        labels = as_array(found.labels, ())
        return self._examples(split, found, None if np.isnan(labels).all() else labels, limit)

    def _collected(self, split: str, columns: Columns, read: object, limit: int | None = None) -> Collected:
        rows = self.source.rows(split, columns.needed)
        origin = self.source.origin(split).removeprefix("files ")
        return collect(rows, columns, read, limit, origin)  # type: ignore[arg-type]

    def _examples(
        self, split: str, found: Collected, labels: np.ndarray | None, limit: int | None, note: str = ""
    ) -> Examples:
        first, second, *negatives = found.texts
        origin = self.source.origin(split) + note + (f", first {limit}" if len(found.ids) == limit else "")
        return Examples(
            *(first, second, labels, found.ids, origin),
            official=False,
            negatives=negatives[0] if negatives else None,
        )


def _evaluated(reader: _Reader, split: str, limit: int | None, *, scored: bool) -> Examples:
    if scored:
        return reader.scored(split, limit)
    return reader.ranked(split, reader.pairs(split).first(limit), limit)


def _held_out(reader: _Reader, train: Collected, limits: Limits) -> dict[str, Examples]:
    """Split the training pairs: the held-out ones are evaluated on, without their negatives."""
    held = held_out(reader.config, train.texts[:2], range(len(train.ids)), by_class=False)
    kept, taken = train.chosen(np.flatnonzero(~held)), _without_negatives(train.chosen(np.flatnonzero(held)))
    notes = f", less {held.sum()} held out", f", {held.sum()} of {held.size} held out"
    return {
        "train": reader.ranked("train", kept.first(limits.train), limits.train, notes[0]),
        "validation": reader.ranked("train", taken.first(limits.evaluation), limits.evaluation, notes[1]),
    }


def _without_negatives(pairs: Collected) -> Collected:
    texts: Sequence[list[str]] = pairs.texts[:2]
    return replace(pairs, texts=tuple(texts))
