"""GLUE tasks from the Hugging Face hub: `nyu-mll/glue`, or a data set in its layout.

The token is the one huggingface_hub finds (HF_TOKEN, or a login); it is never read or shown here.
"""

from collections.abc import Collection
from typing import Any

from base.errors import UserError
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
    """Splits of a task, downloaded once and kept in the hub's cache; a test split that is not there is left out.

    Raises:
      UserError: unknown or gated data set, no such configuration, split or column, or no connection.
    """
    from datasets import load_dataset

    name = config.name or HUB_NAME
    try:
        found = load_dataset(name, task.dataset, revision=config.revision or None)
    except Exception as error:  # datasets, huggingface_hub and pyarrow raise what they like
        asked = SourceConfig(source="hub", name=name, subset=task.dataset, revision=config.revision)
        raise explain(error, asked, WHERE, subset="config.task", alternatives=HUB_NAME) from error
    examples = {}
    for split in splits:
        if split in found:
            examples[split] = _read(found[split], name, task, split, limits.of(task, split))
        elif split not in task.tests:
            raise UserError(
                f"{WHERE}.name={name!r} has no split {split!r} of {task.dataset}; it has {', '.join(found)}"
            )
    return examples


def _read(dataset: Any, name: str, task: Task, split: str, limit: int | None) -> Examples:
    check_columns(task, dataset.column_names, f"{WHERE}.name={name!r}")
    names = getattr(dataset.features[LABEL], "names", None)  # of a ClassLabel
    columns = dataset[: limit or len(dataset)]
    return split_of_columns(
        task,
        split,
        [columns[text] for text in task.texts],
        columns[LABEL],
        names and [str(name) for name in names],  # a card's `no` and `yes` are booleans in YAML
        columns.get(IDENTITY, range(len(columns[LABEL]))),
        origin=f"hub {name} {task.dataset} {split}",
        limit=limit,
    )
