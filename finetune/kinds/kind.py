"""The interface of a kind of task."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float

Scores = dict[str, float]


class Kind(ABC):
    """What the labels of a task are, and all that follows from it.

    A head gives logits [B, C] for texts, or [B, S, C] for tokens. Logits on the host, [n, C], are those of the things
    that have a label: n texts, n words, sentence after sentence, or n questions.
    """

    name: ClassVar[str]
    """As in `data.labelled.tasks.Task.kind`."""
    task_class: ClassVar[str] = "ForSequenceClassification"
    """The end of the names of transformers' classes."""
    problem_type: ClassVar[str | None]
    """That of config.json; None leaves it out."""
    head: ClassVar[str] = "texts"
    """What the head gives logits: texts, tokens, or tokens as starts and ends of spans (spans)."""
    outputs: ClassVar[int] = 0
    """C, the number of logits; 0: one for each class, or 1."""
    extracts: ClassVar[bool] = False
    """Whether answers are spans of a context: tokens have logits, and labels and answers are of questions."""
    per_token: ClassVar[bool] = False
    """Whether tokens have logits, not rows."""
    embeds: ClassVar[bool] = False
    """Whether an example is T texts, each of which has a vector: there is no head, and logits are [B, T, D]."""
    refuses_smoothing: ClassVar[bool] = False
    """Whether config.label_smoothing is refused."""
    per_example: ClassVar[str] = "one class"
    """What an example has, for messages."""
    reported: ClassVar[tuple[str, ...]] = ()
    """What evaluations report beside the metrics of the task and the loss."""
    accuracy: ClassVar[bool] = True
    """Whether training has an accuracy to show: a share of labels that are right."""

    @abstractmethod
    def losses(self, logits: Float[Array, "B ... C"], labels: Array, smoothing: float = 0.0) -> Array:
        """The loss of each label; see `weights` for those that count."""

    def losses_in_batch(
        self,
        logits: Float[Array, "B ... C"],
        labels: Array,
        weights: Float[Array, "B"],
        smoothing: float = 0.0,
    ) -> Array:
        """The losses, for a kind whose loss of a row depends on other rows, but not on those without weight."""
        return self.losses(logits, labels, smoothing)

    @abstractmethod
    def right(self, logits: Float[Array, "B ... C"], labels: Array) -> Array:
        """Whether each label is predicted, or what share of an example's labels."""

    def weights(self, weights: Float[Array, "B"], labels: Array) -> Array:
        """The weight of each label, shaped like the losses.

        Args:
          weights: those of the rows.
          labels: those of the rows.
        """
        return weights

    @abstractmethod
    def predictions(self, logits: Float[np.ndarray, "n C"], threshold: float = 0.0) -> np.ndarray:
        """Predictions in the form of labels.

        Args:
          logits: those of a model.
          threshold: of probabilities, from which on an example has a class; 0 takes the default. Only of kinds that
            have one.
        """

    def probabilities(self, logits: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n C"]:
        """The probability of each class, in float64; only of kinds that have classes."""
        raise NotImplementedError

    @abstractmethod
    def mean_loss(self, logits: Float[np.ndarray, "n C"], labels: np.ndarray) -> float:
        """The mean of the losses without smoothing, in float64."""

    @abstractmethod
    def scores(
        self,
        metrics: Sequence[str],
        names: Sequence[str],
        logits: Float[np.ndarray, "n C"],
        labels: np.ndarray,
        groups: np.ndarray | None = None,
        threshold: float | None = None,
    ) -> Scores:
        """The metrics of a set, n > 0.

        Args:
          metrics: their names.
          names: the classes by id.
          logits: those of a model, finite.
          labels: the right answers.
          groups: the sentence of each word, [n], ascending; None where texts have labels.
          threshold: the one that was chosen; None chooses it on this set. Only of kinds that have one.
        """

    @abstractmethod
    def columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """The header for what `said` returns."""

    @abstractmethod
    def said(
        self, names: Sequence[str], logits: Float[np.ndarray, "n C"], threshold: float = 0.0
    ) -> list[tuple[str, ...]]:
        """For each row of logits, the answer as text."""
