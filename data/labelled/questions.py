"""Questions whose answers are spans of a context (Rajpurkar et al. 2016), in the form that every source returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Reference:
    """The context of a question, and the right answers."""

    context: str
    answers: tuple[tuple[int, str], ...] | None
    """The first character of each answer in the context, and its text. () if the context does not answer the question;
    None if the answers are hidden."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the answers."""
        return tuple(text for _, text in self.answers or ())


@dataclass(frozen=True)
class Questions:
    """Questions, n in number, in their source's order; never empty."""

    questions: list[str]
    references: list[Reference]
    """The context of each question, and its answers."""
    ids: list[int | str]
    """Ids of the questions in their source, or else numbers from 0; each once."""
    origin: str
    """Name of the source, for messages and results."""
    official: bool = False
    """Whether these are a whole split of GLUE as published."""

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def labelled(self) -> np.ndarray:
        """Whether the answers of each question are known, bool [n]."""
        return np.array([each.answers is not None for each in self.references], bool)

    @property
    def labelled_count(self) -> int:
        """Number of questions whose answers are known."""
        return int(self.labelled.sum())

    @property
    def lack_answers(self) -> bool:
        """Whether some contexts do not answer their question, as in SQuAD 2.0."""
        return any(each.answers == () for each in self.references)

    @cached_property
    def labels(self) -> np.ndarray | None:
        """The references, object [n]; None if all answers are hidden."""
        return as_labels(self.references) if self.labelled.any() else None

    def chosen(self, rows: Sequence[int] | np.ndarray, note: str = "") -> "Questions":
        """The questions with these indices; `note` is added to the origin."""
        rows = [int(row) for row in rows]
        questions, references, ids = (
            [each[row] for row in rows] for each in (self.questions, self.references, self.ids)
        )
        return Questions(questions, references, ids, self.origin + note)  # type: ignore[arg-type]

    def first(self, limit: int | None) -> "Questions":
        """The first `limit` questions; None for all."""
        if limit is None or limit >= len(self):
            return self
        return self.chosen(range(limit), f", first {limit}")


def as_labels(references: Sequence[Reference]) -> np.ndarray:
    """References as an array of objects [n]."""
    labels = np.empty(len(references), object)
    labels[:] = references
    return labels
