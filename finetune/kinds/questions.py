"""The answer to a question: a span of a context, or none."""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from finetune.kinds import kind
from finetune.results.exact_match import exact_match, f1
from finetune.texts.spans import BEGIN, END, LOSS, NO_ANSWER, SCORE, WINDOWS, texts_of


class Questions(kind.Kind):
    """Labels are the first and the last token of the answer, int32 [B, 2]; both are 0 in rows without it.

    The loss is the mean of the cross-entropies of start and end, as in transformers. Logits on the host are answers,
    whose columns are those of `finetune.texts.spans`, and labels are `data.labelled.questions.Reference`.
    """

    name = "questions"
    task_class = "ForQuestionAnswering"
    problem_type: ClassVar[str | None] = None
    head = "spans"
    outputs = 2
    extracts = True
    refuses_smoothing = True
    per_example = "a span of its context"

    def losses(self, logits: Float[Array, "B ... C"], labels: Array, smoothing: float = 0.0) -> Array:
        """Cross-entropy over the tokens of the row."""
        right = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), labels[:, None], axis=1)
        return -jnp.mean(right[:, 0], axis=-1)

    def right(self, logits: Float[Array, "B ... C"], labels: Array) -> Array:
        """Whether both the most probable start and the most probable end of a row are right."""
        return jnp.all(jnp.argmax(logits, axis=1) == labels, axis=-1)

    def predictions(self, logits: Float[np.ndarray, "n C"], threshold: float = 0.0) -> np.ndarray:
        """The characters of the answers in their contexts, int64 [n, 2]; [0, 0) for no answer."""
        return logits[:, [BEGIN, END]].astype(np.int64)

    def mean_loss(self, logits: Float[np.ndarray, "n C"], labels: np.ndarray) -> float:
        """The mean over all windows of the contexts."""
        logits = logits.astype(np.float64)
        return float(logits[:, LOSS].sum() / logits[:, WINDOWS].sum())

    def scores(
        self,
        metrics: Sequence[str],
        names: Sequence[str],
        logits: Float[np.ndarray, "n C"],
        labels: np.ndarray,
        groups: np.ndarray | None = None,
        threshold: float | None = None,
    ) -> kind.Scores:
        """Exact match and F1, and the F1 of questions with and without an answer; 0 of a set without such questions."""
        pairs = list(zip(texts_of(logits, list(labels)), labels, strict=True))
        nearness = np.array([f1(answer, each.texts) for answer, each in pairs])
        answered = np.array([bool(each.answers) for each in labels], bool)
        values = {
            "exact_match": float(np.mean([exact_match(answer, each.texts) for answer, each in pairs])),
            "f1_has_answer": float(nearness[answered].mean()) if answered.any() else 0.0,
            "f1_no_answer": float(nearness[~answered].mean()) if not answered.all() else 0.0,
            "f1": float(nearness.mean()),
        }
        return {metric: values[metric] for metric in metrics}

    def columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """The characters of an answer, and how much more certain it is than no answer."""
        return ("begin", "end", "margin")

    def said(
        self, names: Sequence[str], logits: Float[np.ndarray, "n C"], threshold: float = 0.0
    ) -> list[tuple[str, ...]]:
        """The characters of each answer, and its score less that of no answer."""
        margins = logits[:, SCORE] - logits[:, NO_ANSWER]
        spans = self.predictions(logits).tolist()
        return [
            (str(begin), str(end), f"{margin:.4f}")
            for (begin, end), margin in zip(spans, margins, strict=True)
        ]
