"""GLUE tasks prepared by TensorFlow Datasets (`glue/*`), read without TensorFlow."""

from collections.abc import Collection
from typing import Any

from base.errors import UserError
from data.labelled.config import TFDS_NAME, LabelledConfig
from data.labelled.examples import Examples, Limits
from data.labelled.glue_columns import IDENTITY, LABEL, check_columns, split_of_columns
from data.labelled.tasks import Task
from data.sources.tfds import BATCH, decoded, prepared_builder, random_access

WHERE = "config.data"


def read_tfds(
    config: LabelledConfig, task: Task, splits: Collection[str], limits: Limits
) -> dict[str, Examples]:
    """Read splits of a task; a missing test split is left out.

    TFDS stores examples in an order of its own. `Examples.ids` hold their numbers in GLUE.

    Raises:
      UserError: the data set is not prepared or has no random access; or a split or column is missing.
    """
    name = f"{config.name or TFDS_NAME}/{task.dataset}"
    builder = prepared_builder(name, config.data_dir, WHERE)
    check_columns(task, list(builder.info.features), f"{WHERE}.name: {name!r}")
    examples = {}
    for split in splits:
        if split in builder.info.splits:
            data = random_access(builder, split, name, WHERE)
            names = getattr(builder.info.features[LABEL], "names", None)
            examples[split] = _read(data, names, name, task, split, limits.of(task, split))
        elif split not in task.tests:
            raise UserError(
                f"{WHERE}.name: {name!r} has no split {split!r}; it has {', '.join(builder.info.splits)}"
            )
    return examples


def _read(
    data: Any, names: list[str] | None, name: str, task: Task, split: str, limit: int | None
) -> Examples:
    count = min(limit or len(data), len(data))
    texts: list[list[str]] = [[] for _ in task.texts]
    labels: list[float] = []
    ids: list[int] = []
    for low in range(0, count, BATCH):
        for example in data.__getitems__(list(range(low, min(low + BATCH, count)))):
            for column, text in zip(texts, task.texts):
                column.append(decoded(example[text]))
            labels.append(float(example[LABEL]))
            ids.append(int(example.get(IDENTITY, len(ids))))
    return split_of_columns(
        task, split, texts, labels, names, ids, origin=f"tfds {name} {split}", limit=limit
    )
