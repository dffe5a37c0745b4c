"""README.md of a model, written from what a stage says of it: the YAML header that the hub reads, then Markdown.

The header is `huggingface_hub.ModelCardData`, which knows the hub's names and builds its model index. The texts of the
header are quoted by `front_matter`: the client's own writer leaves 1e5 bare, which other versions of YAML read as a
number.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from base import formatting
from pretrain.config import CardConfig
from pretrain.publish.markdown import code, escape, front_matter
from pretrain.publish.public_names import languages


@dataclass(frozen=True)
class Scores:
    """What a model scores on one set of examples, as the hub shows it."""

    task: str
    """What is done, in words."""
    dataset: str
    """Id of the data set on the hub, or the kind of source."""
    title: str
    """Name of the data set, in words."""
    metrics: Sequence[tuple[str, float, str | None]]
    """The hub's name of each metric, its value, and our own name where it says more."""
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    """Of the data set on the hub."""


@dataclass(frozen=True)
class Card:
    """What a model card says."""

    title: str
    pipeline: str
    """The hub's name of the task: "fill-mask"."""
    tags: Sequence[str]
    settings: CardConfig
    """What the user says."""
    base_model: str
    """Id on the hub of the model that the run started from; '' for none."""
    datasets: Sequence[str]
    """Ids on the hub."""
    metrics: Sequence[str]
    """The hub's names of the metrics."""
    scores: Sequence[Scores]
    summary: str
    """The paragraph below the title, in Markdown, as the sections are."""
    sections: Mapping[str, str]
    """Heading -> text, in order."""
    library: str = "transformers"
    """The library that loads the model."""


def written(card: Card) -> str:
    """The text of README.md."""
    sections = [f"## {heading}\n\n{text}" for heading, text in card.sections.items()]
    parts = [front_matter(_header(card)), f"# {escape(card.title)}\n\n{card.summary}", *sections]
    return "\n\n".join(parts) + "\n"


def _header(card: Card) -> dict[str, Any]:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=card.pipeline,
            task_name=scores.task,
            dataset_type=scores.dataset,
            dataset_name=scores.title,
            dataset_config=scores.config,
            dataset_split=scores.split,
            dataset_revision=scores.revision,
            metric_type=metric,
            metric_value=value,
            metric_name=name,
        )
        for scores in card.scores
        for metric, value, name in scores.metrics
    ]
    data = ModelCardData(
        library_name=card.library,
        pipeline_tag=card.pipeline,
        tags=["unmask", *card.tags],
        language=languages(card.settings),
        license=card.settings.license,
        base_model=card.base_model,
        datasets=list(card.datasets),
        metrics=list(card.metrics),
        eval_results=results or None,
        model_name=card.title if results else None,
    )
    return dict(data.to_dict())


def start_shown(base_model: str, shown: str) -> str:
    """The model that a run started from, in Markdown.

    Args:
      base_model: its id on the hub, which is linked; '' for a folder.
      shown: what is shown of a folder.
    """
    return f"[{base_model}](https://huggingface.co/{base_model})" if base_model else code(shown)


def pipeline_snippet(variable: str, pipeline: str, model: str, arguments: str) -> str:
    """Python that loads a model as a pipeline of transformers and calls it, as Markdown."""
    return (
        "```python\n"
        "from transformers import pipeline\n\n"
        f'{variable} = pipeline("{pipeline}", model={quoted(model)})\n'
        f"{variable}({arguments})\n"
        "```"
    )


def quoted(text: str) -> str:
    """A text of a user's as a literal of Python."""
    return formatting.one_line(json.dumps(text, ensure_ascii=False))
