"""Answers as text: tables of texts; a word a line, or JSON objects, for sentences; SQuAD's JSON for questions."""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from data.labelled.questions import Questions
from finetune.texts.spans import NO_ANSWER, SCORE, texts_of


def line(fields: Sequence[str]) -> str:
    """One tab-separated line. A tab or a line break within a field is replaced by a space."""
    return "\t".join(" ".join(field.splitlines()).replace("\t", " ") for field in fields) + "\n"


def sentence_lines(
    sentences: Sequence[Sequence[str]],
    names: Sequence[str],
    told: Int[np.ndarray, "n"],
    *,
    json_lines: bool = False,
) -> Iterator[str]:
    """Yield each sentence in columns, a word and its class a line and then an empty line; or as a line of JSON.

    Args:
      sentences: the words of each sentence, n in all.
      names: the classes by id.
      told: the predicted class of each word, sentence after sentence.
      json_lines: whether to write objects with `tokens` and `tags`.
    """
    start = 0
    for words in sentences:
        tags = [names[index] for index in told[start : start + len(words)]]
        start += len(words)
        if json_lines:
            yield json.dumps({"tokens": list(words), "tags": tags}, ensure_ascii=False) + "\n"
        else:
            yield "".join(line(pair) for pair in zip(words, tags, strict=True)) + "\n"


def answers_by_id(questions: Questions, found: Float[np.ndarray, "n C"]) -> dict[str, str]:
    """The text of each answer by the question's id; '' for no answer.

    Args:
      questions: the questions.
      found: their answers, with the columns of `finetune.texts.spans`.
    """
    return dict(zip(map(str, questions.ids), texts_of(found, questions.references), strict=True))


def squad_json(answers: Mapping[str, str]) -> str:
    """Answers by ids as SQuAD's evaluation reads them: one JSON object."""
    return json.dumps(dict(answers), indent=1, ensure_ascii=False) + "\n"


def question_lines(questions: Questions, found: Float[np.ndarray, "n C"]) -> Iterator[str]:
    """Yield each answer as a line of JSON: id, answer, and the score of the best span less that of no answer."""
    margins = found[:, SCORE] - found[:, NO_ANSWER]
    for name, answer, margin in zip(
        questions.ids, texts_of(found, questions.references), margins, strict=True
    ):
        values = {"id": name, "answer": answer, "margin": round(float(margin), 4)}
        yield json.dumps(values, ensure_ascii=False) + "\n"
