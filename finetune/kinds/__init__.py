"""The kinds of tasks: what labels are, and all that follows from it: head, loss, scores, answers."""

from data.labelled import tasks
from data.labelled.tasks import Task
from finetune.kinds.classes import Classes
from finetune.kinds.embedding import Embedding, Similarity
from finetune.kinds.kind import Kind
from finetune.kinds.multi_label import MultiLabel
from finetune.kinds.questions import Questions
from finetune.kinds.scores import Scores
from finetune.kinds.tokens import Tokens

CLASSES, SCORES, MULTI_LABEL, TOKENS = Classes(), Scores(), MultiLabel(), Tokens()
EMBEDDING, SIMILARITY = Embedding(), Similarity()
QUESTIONS = Questions()
KINDS: dict[str, Kind] = {
    tasks.CLASSES: CLASSES,
    tasks.SCORES: SCORES,
    tasks.MULTI_LABEL: MULTI_LABEL,
    tasks.TOKENS: TOKENS,
    tasks.EMBEDDING: EMBEDDING,
    tasks.SIMILARITY: SIMILARITY,
    tasks.QUESTIONS: QUESTIONS,
}


def kind_of(task: Task) -> Kind:
    """The kind of a task."""
    return KINDS[task.kind]


def of_labels(labels: tuple[str, ...] | list[str]) -> Kind:
    """The kind of a task that gives a text one of these classes; () gives it a score."""
    return CLASSES if labels else SCORES
