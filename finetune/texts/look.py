"""A look at the training examples as the model sees them, before it trains: a few lines of 80 columns."""

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from data.labelled.labels import UNLABELLED
from data.labelled.tasks import MULTI_LABEL, SCORES, TOKENS
from finetune.texts.encoding import Encoded

COLUMNS = 80
SHOWN, CLASSES = 2, 8
"""Numbers of examples and of classes that are shown."""
BETWEEN = " "


def look(
    encoded: Encoded, kind: str, names: Sequence[str], token_of: Callable[[int], str], max_length: int
) -> list[str]:
    """The first examples with their tokens, segments and labels; counts of classes; lengths; what is cut.

    Args:
      encoded: the training examples.
      kind: what labels are, as `data.labelled.tasks.Task.kind` has it.
      names: the classes by id.
      token_of: the spelling of a token.
      max_length: most tokens of an example.
    """
    lines = []
    for row in range(min(SHOWN, len(encoded))):
        length = int(encoded.lengths[row])
        tokens = [token_of(int(index)) for index in encoded.tokens[row, :length]]
        if kind == TOKENS:
            assert encoded.labels is not None
            tokens = [
                token if label == UNLABELLED else f"{token}/{names[label]}"
                for token, label in zip(tokens, encoded.labels[row, :length], strict=True)
            ]
        lines.append(cut(f"example {row + 1}: {BETWEEN.join(tokens)}"))
        types = encoded.token_types[row, :length]
        if types.any():
            lines.append(f"  segments: 0 in {np.sum(types == 0)} tokens, 1 in {np.sum(types == 1)}")
        if kind != TOKENS:
            lines.append(cut(f"  label: {_label(encoded, row, kind, names)}"))
    lines.append(cut(_counts(encoded, kind, names)))
    low, middle, high, most = np.percentile(encoded.lengths, (0, 50, 90, 100), method="nearest")
    lines.append(f"tokens of an example: {low} to {most}; half have {middle} or fewer, 90% {high} or fewer")
    what = "sentences become several rows" if kind == TOKENS else "examples are cut"
    count = len(np.unique(encoded.words.sentences)) if encoded.words else len(encoded)
    lines.append(f"{what}: {encoded.truncated} of {count}, at config.max_length={max_length}")
    return lines


def _label(encoded: Encoded, row: int, kind: str, names: Sequence[str]) -> str:
    assert encoded.labels is not None
    label = encoded.labels[row]
    if kind == SCORES:
        return f"{label:g}"
    if kind == MULTI_LABEL:
        return ", ".join(names[index] for index in np.flatnonzero(label).tolist()) or "none"
    return names[int(label)]


def _counts(encoded: Encoded, kind: str, names: Sequence[str]) -> str:
    labels = encoded.targets
    assert labels is not None
    if kind == SCORES:
        return f"scores: {labels.min():g} to {labels.max():g}, mean {labels.mean():.3g}"
    counts = (
        labels.sum(axis=0).astype(int)
        if kind == MULTI_LABEL
        else np.bincount(labels[labels >= 0], minlength=len(names))
    )
    total = len(labels)
    order = np.argsort(-counts, kind="stable")
    shown = ", ".join(f"{names[i]} {counts[i]:,} ({counts[i] / total:.1%})" for i in order[:CLASSES])
    return f"classes, {len(names)}: {shown}"


def cut(line: str) -> str:
    """A line of at most COLUMNS columns, without control characters; characters of double width count twice."""
    shown, width = "", 0
    for character in line:
        character = character if unicodedata.category(character)[0] != "C" else "?"
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width > COLUMNS - 3:
            return shown + "..."
        shown += character
    return shown
