"""What a report shows that no other file of a workdir holds: predictions of a finished run, and trials of a search."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data.labelled.questions import Questions
from data.labelled.sentences import Sentences
from data.labelled.tasks import SIMILARITY
from finetune.job import Job
from finetune.kinds import MULTI_LABEL
from finetune.kinds.embedding import unit_vectors
from finetune.kinds.multi_label import BETWEEN
from finetune.report.pages import ANSWERS_FILE, TRIALS_FILE
from finetune.results.exact_match import f1
from finetune.results.ranking import ranks
from finetune.search.trials_table import Found
from finetune.texts.spans import NO_ANSWER, SCORE, texts_of
from pretrain.runtime.workdir import write_text

MISTAKES, RIGHT = 12, 4
"""Examples that are shown: the largest mistakes, and the first that are right."""
LONGEST_TEXT = 400
"""Characters of an example that are kept."""
NO_ANSWER_TEXT = "(no answer)"
MOST_CONFUSIONS = 30
"""Kept pairs of classes that are taken for each other, the most frequent ones."""
MOST_CLASSES = 40
"""With more classes than this, only the most frequent confusions are kept."""


def keep_answers(job: Job, logits: np.ndarray, workdir: epath.Path, threshold: float = 0.0) -> None:
    """Write WORKDIR/report.json: how the best model does on the first evaluation set, and on single examples.

    Args:
      job: the run.
      logits: of that set, float32 [n, C]; of words, those of all sentences.
      workdir: the run's folder.
      threshold: of probabilities, where an example may have any number of classes; 0 takes the default.
    """
    examples, labels = next(iter(job.data.evaluations.values())), job.evaluations[0].encoded.targets
    assert labels is not None
    if isinstance(examples, Questions):
        values = _of_questions(examples, logits)
        write_text(
            workdir / ANSWERS_FILE, json.dumps({"set": job.evaluations[0].name, **values}, indent=1) + "\n"
        )
        return
    if isinstance(examples, Sentences):
        texts = [(word, " ".join(words)) for words in examples.words for word in words]
    else:
        texts = list(zip(examples.first, examples.second or [""] * len(examples.first)))
    if job.kind.embeds:
        values = _of_pairs(texts, labels, logits, scored=job.kind.name == SIMILARITY)
    elif labels.ndim > 1:
        values = _of_sets(job.labels, texts, labels > 0, logits, threshold)
    elif job.labels:
        values = _of_classes(job.labels, texts, labels, logits)
    else:
        values = _of_scores(texts, labels, logits[:, 0])
    write_text(
        workdir / ANSWERS_FILE, json.dumps({"set": job.evaluations[0].name, **values}, indent=1) + "\n"
    )


def _of_classes(
    names: Sequence[str], texts: Sequence[tuple[str, str]], labels: np.ndarray, logits: np.ndarray
) -> dict[str, Any]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = shifted / shifted.sum(axis=1, keepdims=True)
    guessed, count = logits.argmax(axis=1), len(names)
    pairs = labels.astype(np.int64) * count + guessed
    certain = shares[np.arange(len(labels)), guessed]
    wrong = np.flatnonzero(guessed != labels)
    chosen = [
        *wrong[np.argsort(-certain[wrong], kind="stable")][:MISTAKES],
        *np.flatnonzero(guessed == labels)[:RIGHT],
    ]
    confused, numbers = np.unique(pairs[wrong], return_counts=True)
    confusion = None
    if count <= MOST_CLASSES:
        confusion = np.bincount(pairs, minlength=count * count).reshape(count, count).tolist()
    return {
        "classes": list(names),
        "confusion": confusion,
        "confused": [
            [names[confused[index] // count], names[confused[index] % count], int(numbers[index])]
            for index in np.argsort(-numbers, kind="stable")[:MOST_CONFUSIONS]
        ],
        "examples": [
            _example(texts[i], names[labels[i]], names[guessed[i]], f"{certain[i]:.1%}")
            for i in map(int, chosen)
        ],
    }


def _of_sets(
    names: Sequence[str],
    texts: Sequence[tuple[str, str]],
    right: np.ndarray,
    logits: np.ndarray,
    threshold: float,
) -> dict[str, Any]:
    """Of examples with any number of classes: how often each class is right, missed or wrongly given."""
    guessed = MULTI_LABEL.predictions(logits, threshold)
    wrong = right != guessed
    losses = np.logaddexp(0, logits) - logits * right
    order = np.argsort(-np.where(wrong.any(axis=1), losses.mean(axis=1), -1.0), kind="stable")
    mistakes = int(wrong.any(axis=1).sum())
    chosen = [*order[: min(MISTAKES, mistakes)], *np.flatnonzero(~wrong.any(axis=1))[:RIGHT]]
    columns = [(right & guessed).sum(axis=0), (right & ~guessed).sum(axis=0), (~right & guessed).sum(axis=0)]
    said, told = (
        [BETWEEN.join(names[i] for i in np.flatnonzero(each).tolist()) for each in sets]
        for sets in (right, guessed)
    )
    return {
        "classes": list(names),
        "by_class": [[name, *map(int, counts)] for name, *counts in zip(names, *columns, strict=True)],
        "examples": [
            _example(texts[i], said[i], told[i], f"{int(wrong[i].sum())} of {len(names)} wrong")
            for i in map(int, chosen)
        ],
    }


def _of_scores(texts: Sequence[tuple[str, str]], labels: np.ndarray, guessed: np.ndarray) -> dict[str, Any]:
    chosen = np.argsort(-np.abs(guessed - labels), kind="stable")[:MISTAKES]
    return {
        "classes": [],
        "examples": [
            _example(texts[i], f"{labels[i]:.3g}", f"{guessed[i]:.3g}", f"{guessed[i] - labels[i]:+.3g}")
            for i in map(int, chosen)
        ],
    }


def _of_questions(questions: Questions, logits: np.ndarray) -> dict[str, Any]:
    """Of answers to questions: those that are furthest from the right ones, the most certain first."""
    told = texts_of(logits, questions.references)
    nearness = np.array([f1(text, each.texts) for text, each in zip(told, questions.references, strict=True)])
    certain = np.abs(logits[:, SCORE] - logits[:, NO_ANSWER])
    order = np.lexsort((-certain, nearness))
    chosen = [*[i for i in order if nearness[i] < 1][:MISTAKES], *np.flatnonzero(nearness == 1)[:RIGHT]]
    return {
        "columns": ["text", "label", "predicted", "nearness"],
        "examples": [
            _example(
                (questions.questions[i], questions.references[i].context),
                " | ".join(dict.fromkeys(questions.references[i].texts)) or NO_ANSWER_TEXT,
                told[i] or NO_ANSWER_TEXT,
                f"F1 {nearness[i]:.0%}",
            )
            for i in map(int, chosen)
        ],
    }


def _of_pairs(
    texts: Sequence[tuple[str, str]], labels: np.ndarray, logits: np.ndarray, *, scored: bool
) -> dict[str, Any]:
    """Of pairs that an embedder compares: the cosines that fit the scores least, or the worst ranks, then good ones."""
    vectors = unit_vectors(logits)
    cosines = np.sum(vectors[:, 0] * vectors[:, 1], axis=1)
    if scored:
        low, high = labels.min(), labels.max()
        apart = cosines - (labels - low) / (high - low if high > low else 1.0)
        order = np.argsort(-np.abs(apart), kind="stable")
        return {
            "columns": ["pair", "score", "cosine", "cosine - score from 0 to 1"],
            "examples": [
                _example(texts[i], f"{labels[i]:.3g}", f"{cosines[i]:.3f}", f"{apart[i]:+.3f}")
                for i in map(int, _both_ends(order))
            ],
        }
    places = ranks(vectors, labels)
    _, first = np.unique(labels, return_index=True)
    order = np.argsort(-places, kind="stable")
    examples = []
    for i in map(int, _both_ends(order)):
        nearest = first[np.argmax(vectors[first, 1] @ vectors[i, 0])]
        found = "" if labels[nearest] == labels[i] else texts[nearest][1][:LONGEST_TEXT]
        examples.append(_example(texts[i], str(places[i]), found, f"{cosines[i]:.3f}"))
    return {
        "columns": ["pair", f"rank among {len(first)} second texts", "a nearer text", "cosine"],
        "examples": examples,
    }


def _both_ends(order: np.ndarray) -> list[int]:
    """The first of an order, `MISTAKES` of them at most, and the last `RIGHT`, none twice."""
    return list(dict.fromkeys([*order[:MISTAKES].tolist(), *order[::-1][:RIGHT].tolist()]))


def _example(texts: tuple[str, str], label: str, guessed: str, more: str) -> dict[str, str]:
    first, second = (each if len(each) <= LONGEST_TEXT else f"{each[:LONGEST_TEXT]}..." for each in texts)
    return {"text": first, "second": second, "label": label, "predicted": guessed, "certainty": more}


def keep_trials(found: Found, folder: epath.Path) -> None:
    """Write the trials of a search, to WORKDIR/search/trials.json.

    Args:
      found: the search.
      folder: WORKDIR/search.
    """
    values: Mapping[str, Any] = {
        "objective": found.objective,
        "best": found.best and found.best.number,
        "trials": [{**vars(trial), "values": dict(trial.values)} for trial in found.trials],
    }
    write_text(folder / TRIALS_FILE, json.dumps(values, indent=1) + "\n")
