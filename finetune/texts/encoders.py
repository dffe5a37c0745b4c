"""The encoder of a kind of task: of texts and pairs, of sentences whose words have labels, or of questions."""

from typing import Any, Protocol

from finetune.kinds.kind import Kind
from finetune.texts.encoding import Encoded, PairEncoder
from finetune.texts.question_encoding import Answering, QuestionEncoder
from finetune.texts.text_encoding import TextEncoder
from finetune.texts.token_encoding import TokenEncoder
from tokenizer.load import Loaded


class Encoder(Protocol):
    """Turns the examples of a kind of task into rows."""

    def __call__(self, examples: Any, /) -> Encoded:
        """Encode `data.labelled.examples.AnyExamples`."""


def encoder_for(
    kind: Kind,
    tokenizer: Loaded,
    *,
    max_length: int,
    token_types: int,
    pieces: str = "first",
    answering: Answering | None = None,
) -> Encoder:
    """The encoder for a model.

    Args:
      kind: of its task.
      tokenizer: the model's.
      max_length: most tokens of a row.
      token_types: number of token types of the model.
      pieces: the pieces of a word that are trained to have its label, first or all.
      answering: how answers to questions are chosen; None takes the defaults.

    Raises:
      UserError: the tokenizer adds no special tokens, or max_length has no room for text.
    """
    if kind.per_token:
        return TokenEncoder(tokenizer, max_length=max_length, pieces=pieces)
    if kind.extracts:
        return QuestionEncoder(
            tokenizer, answering or Answering(), max_length=max_length, token_types=token_types
        )
    if kind.embeds:
        return TextEncoder(tokenizer, max_length=max_length)
    return PairEncoder(tokenizer, max_length=max_length, token_types=token_types)
