"""Exact match and F1 of answers, as SQuAD's evaluation defines them (Rajpurkar et al. 2016, 2018).

Answers are compared without case, punctuation, the English articles, and the number of blanks. An answer counts as near
as the nearest of the right ones. No answer is the empty text, which is right where there is no right answer.
transformers had these functions; its release 5 has none.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """An answer as it is compared."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 if an answer equals a right one, else 0."""
    return max(float(normalized(answer) == each) for each in _compared(right))


def f1(answer: str, right: Sequence[str]) -> float:
    """The F1 of an answer's words, against the right answer for which it is highest."""
    return max(_f1(normalized(answer).split(), each.split()) for each in _compared(right))


def _compared(right: Sequence[str]) -> list[str]:
    """The right answers as they are compared; one is empty where nothing is left of any."""
    return [each for each in map(normalized, right) if each] or [""]


def _f1(words: Sequence[str], right: Sequence[str]) -> float:
    if not words or not right:
        return float(words == right)
    common = sum((Counter(words) & Counter(right)).values())
    return 2 * common / (len(words) + len(right))
