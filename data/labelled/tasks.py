"""The tasks of GLUE (Wang et al. 2019): one frozen table of columns, labels, metrics, splits and sizes.

The best model of a task is chosen by the metric that enters GLUE's own average. If a task has two metrics, that is
their mean (`accuracy_f1`, `pearson_spearman`).
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from base.errors import UserError

CLASSES, SCORES, MULTI_LABEL, TOKENS = "classes", "scores", "multi_label", "tokens"
"""What the labels of a task are: one class, a score, or any number of classes of an example; a class of each word."""
EMBEDDING, SIMILARITY = "embedding", "similarity"
"""Pairs of texts for embeddings: their second texts are ranked, or they have scores."""
QUESTIONS = "questions"
"""Questions whose answers are spans of a context."""


@dataclass(frozen=True)
class Task:
    """A task: its columns, labels, metrics and splits."""

    name: str
    """Name in config.task; '' for the user's own files."""
    title: str
    """Usual name, which is also the name of its folder in GLUE."""
    texts: tuple[str, ...]
    """Columns of the text, or of both texts of a pair, by the names that the hub and TFDS use."""
    labels: tuple[str, ...]
    """Names of the classes by id; () if labels are scores."""
    metrics: tuple[str, ...]
    """Names of the scores that its kind has (`finetune.kinds`)."""
    chooses: str
    """The metric among them that chooses the best model."""
    train: str = "train"
    """The split to train on; '' if there is none."""
    evaluations: tuple[str, ...] = ("validation",)
    tests: tuple[str, ...] = ("test",)
    dataset: str = ""
    """The configuration of the hub's and TFDS's data set that holds the splits."""
    rows: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Published number of examples in each split."""
    submissions: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Name of the file that GLUE expects for the predictions of each test split."""
    submits_names: bool = False
    """Whether GLUE expects names of classes in that file, and not ids."""
    kind: str = CLASSES
    """What its labels are."""
    own_metrics: Any = field(default=None, compare=False)
    """Metrics of the user's own (`finetune.results.own_metrics.OwnMetrics`); None of most tasks."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of all its metrics, the user's own among them; all but the loss."""
        own = () if self.own_metrics is None else self.own_metrics.names
        return tuple(dict.fromkeys((*self.metrics, *own)))


def _task(
    name: str,
    title: str,
    texts: tuple[str, ...],
    labels: tuple[str, ...],
    metrics: tuple[str, ...] = ("accuracy",),
    *,
    rows: tuple[int, int, int],
    submits_names: bool = False,
) -> Task:
    """A task with one split of each kind. The last metric chooses; `rows` are the sizes of train, validation, test."""
    return Task(
        name=name,
        title=title,
        texts=texts,
        labels=labels,
        metrics=metrics,
        chooses=metrics[-1],
        dataset=name,
        rows=dict(zip(("train", "validation", "test"), rows)),
        submissions={"test": f"{title}.tsv"},
        submits_names=submits_names,
        kind=CLASSES if labels else SCORES,
    )


def _mnli(name: str, title: str, halves: tuple[str, ...]) -> Task:
    """MultiNLI, evaluated on the matched half, the mismatched half, or both."""
    rows = {"matched": (9815, 9796), "mismatched": (9832, 9847)}
    files = {"matched": "MNLI-m.tsv", "mismatched": "MNLI-mm.tsv"}
    evaluations = {f"validation_{half}": rows[half][0] for half in halves}
    tests = {f"test_{half}": rows[half][1] for half in halves}
    return Task(
        name=name,
        title=title,
        texts=("premise", "hypothesis"),
        labels=INFERENCE,
        metrics=("accuracy",),
        chooses="accuracy",
        evaluations=tuple(evaluations),
        tests=tuple(tests),
        dataset="mnli",
        rows={"train": 392_702, **evaluations, **tests},
        submissions={f"test_{half}": files[half] for half in halves},
        submits_names=True,
    )


SENTENCES = ("sentence1", "sentence2")
INFERENCE = ("entailment", "neutral", "contradiction")
ENTAILMENT = ("entailment", "not_entailment")
PARAPHRASE = ("accuracy", "f1", "accuracy_f1")

_ALL = (
    _task(
        "cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"), ("matthews",), rows=(8551, 1043, 1063)
    ),
    _mnli("mnli", "MNLI", ("matched", "mismatched")),
    _mnli("mnli-mm", "MNLI-mm", ("mismatched",)),
    _task("mrpc", "MRPC", SENTENCES, ("not_equivalent", "equivalent"), PARAPHRASE, rows=(3668, 408, 1725)),
    _task(
        "qnli", "QNLI", ("question", "sentence"), ENTAILMENT, rows=(104_743, 5463, 5463), submits_names=True
    ),
    _task(
        "qqp",
        "QQP",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        PARAPHRASE,
        rows=(363_846, 40_430, 390_965),
    ),
    _task("rte", "RTE", SENTENCES, ENTAILMENT, rows=(2490, 277, 3000), submits_names=True),
    _task("sst2", "SST-2", ("sentence",), ("negative", "positive"), rows=(67_349, 872, 1821)),
    _task(
        "stsb", "STS-B", SENTENCES, (), ("pearson", "spearman", "pearson_spearman"), rows=(5749, 1500, 1379)
    ),
    _task("wnli", "WNLI", SENTENCES, ("not_entailment", "entailment"), rows=(635, 71, 146)),
    Task(
        name="ax",
        title="AX",
        texts=("premise", "hypothesis"),
        labels=INFERENCE,
        metrics=("matthews",),
        chooses="matthews",
        train="",
        evaluations=(),
        dataset="ax",
        rows={"test": 1104},
        submissions={"test": "AX.tsv"},
        submits_names=True,
    ),
)

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _ALL})
"""The tasks by their names in config.task. For ax, the diagnostic set, a model of mnli makes predictions only."""

SCORE_RANGE = (0.0, 5.0)
"""Lowest and highest score of STS-B."""


def find_task(name: str) -> Task:
    """The GLUE task with this name.

    Raises:
      UserError: there is no such task; the message names the most similar one.
    """
    if name in TASKS:
        return TASKS[name]
    if not name:
        raise UserError(
            f"config.task is empty; set it to one of {', '.join(TASKS)}, "
            "config.data.source=files for files of your own, or config.data.name for any data set of the hub"
        )
    near = difflib.get_close_matches(name.lower(), TASKS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(TASKS)}"
    raise UserError(f"config.task={name!r} is not a GLUE task; {hint}")
