"""GLUE tasks from the Hugging Face hub: `nyu-mll/glue`, or a data set in its layout.

The token comes from huggingface_hub (HF_TOKEN, or a login); this module never reads or shows it.
"""

from collections.abc import Collection
from typing import Any

from base.errors import UserError
from base.hub_patience import patiently
from data.config import SourceConfig
from data.labelled.config import HUB_NAME, LabelledConfig
from data.labelled.examples import Examples, Limits
from data.labelled.glue_columns import IDENTITY, LABEL, check_columns, split_of_columns
from data.labelled.tasks import Task
from data.sources.hub_errors import explain

WHERE = "config.data"


def read_hub(
    config: LabelledConfig, task: Task, splits: Collection[str], limits: Limits
) -> dict[str, Examples]:
    """Read splits of a task; they are downloaded once into the hub's cache. A missing test split is left out.

    Raises:
      UserError: the data set is unknown or gated; a configuration, split or column is missing; or there is no
        connection.
    """
    from datasets import load_dataset

    name = config.name or HUB_NAME
    try:
        dataset = patiently(lambda: load_dataset(name, task.dataset, revision=config.revision or None))
    except Exception as error:  # datasets, huggingface_hub and pyarrow raise many types
        asked = SourceConfig(source="hub", name=name, subset=task.dataset, revision=config.revision)
        raise explain(error, asked, WHERE, subset="config.task", alternatives=HUB_NAME) from error
    examples = {}
    for split in splits:
        if split in dataset:
            examples[split] = _read(dataset[split], name, task, split, limits.of(task, split))
        elif split not in task.tests:
            raise UserError(
                f"{WHERE}.name={name!r} has no split {split!r} of {task.dataset}; it has {', '.join(dataset)}"
            )
    return examples


def _read(dataset: Any, name: str, task: Task, split: str, limit: int | None) -> Examples:
    check_columns(task, dataset.column_names, f"{WHERE}.name={name!r}")
    names = getattr(dataset.features[LABEL], "names", None)  # a ClassLabel has them
    columns = dataset[: limit or len(dataset)]
    return split_of_columns(
        task,
        split,
        [columns[text] for text in task.texts],
        columns[LABEL],
        names and [str(name) for name in names],  # YAML reads a card's `no` and `yes` as booleans
        columns.get(IDENTITY, range(len(columns[LABEL]))),
        origin=f"hub {name} {task.dataset} {split}",
        limit=limit,
    )
