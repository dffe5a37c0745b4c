"""The fields of kinds of tasks: config.embedding and config.questions."""

import math
from dataclasses import dataclass

from base.errors import UserError
from base.schema import field


@dataclass(frozen=True)
class EmbeddingConfig:
    """The vectors of texts, with kind=embedding."""

    pooling: str = field(
        "auto",
        "how the hidden states of tokens become a vector: their mean, or the first token's (cls); auto: as a "
        "sentence-transformers folder has it, else mean",
        ("auto", "mean", "cls"),
    )
    temperature: float = field(
        0.05, "cosines are divided by it in the loss; 1 / scale of sentence-transformers"
    )


@dataclass(frozen=True)
class QuestionsConfig:
    """Answers to questions, as spans of a context, with kind=questions."""

    stride: int = field(
        0, "tokens that a window of a long context has in common with the next; 0: a third of max_length"
    )
    max_answer_length: int = field(30, "most tokens of an answer")
    no_answer_threshold: float = field(
        0.0,
        "where some training questions have no answer: a question has none if the score of no answer is higher than "
        "the best span's by more than this",
    )


def check_kinds(embedding: EmbeddingConfig, questions: QuestionsConfig) -> None:
    """Refuse values outside their range.

    Raises:
      UserError: a value is wrong; the message names a right value.
    """
    if not embedding.temperature > 0:
        raise UserError(f"config.embedding.temperature={embedding.temperature} should be above 0")
    if questions.stride < 0:
        raise UserError(f"config.questions.stride={questions.stride} should be 0 or more")
    if questions.max_answer_length < 1:
        raise UserError(
            f"config.questions.max_answer_length={questions.max_answer_length} should be 1 or more"
        )
    if not math.isfinite(questions.no_answer_threshold):
        raise UserError(
            f"config.questions.no_answer_threshold={questions.no_answer_threshold} should be a finite number"
        )
