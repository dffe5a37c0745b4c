"""README.md of an embedder: what it is, how to use it, how it scores, how it was made."""

import json
import math
from collections.abc import Mapping
from typing import Any

from data.labelled.tasks import SIMILARITY
from finetune.results.classifier_card import data_section, hyperparameters, scores_by_split, scores_section
from finetune.results.results_file import names_on_the_hub
from pretrain.config import CardConfig
from pretrain.publish.card_writer import Card, Scores, quoted, start_shown, written
from pretrain.publish.public_names import path_names

LIBRARY, TASK = "sentence-transformers", "sentence-similarity"
ON_THE_HUB = {
    "pearson": "pearson_cosine",
    "spearman": "spearman_cosine",
    "recall_at_1": "cosine_recall@1",
    "recall_at_10": "cosine_recall@10",
    "ndcg_at_10": "cosine_ndcg@10",
}
"""Our names of metrics -> those of sentence-transformers' cards. Its reciprocal rank is cut at 10, and ours is not."""


def card(found: Mapping[str, Any], name: str, *, picture: str = "") -> str:
    """The model card of a run's results (see `finetune.results.results_file.results`).

    Args:
      found: the results.
      name: what the model is to be loaded by: its id on the hub, or its folder.
      picture: the file beside the card that shows the evaluation; '' for none.
    """
    found = {**names_on_the_hub(found["init_from"], found["config"]["data"]), **found}
    scores = [_on_the_hub(found, split, values) for split, values in scores_by_split(found).items()]
    shown = f"![The evaluation set]({picture})"
    made = hyperparameters(found) | {"embedding": found["config"]["embedding"]}
    made.pop("label_smoothing", None)
    return written(
        Card(
            title=name.removesuffix("/model").rpartition("/")[2],
            pipeline=TASK,
            tags=[LIBRARY, "feature-extraction"],
            settings=CardConfig(**found["config"].get("card", {})),
            base_model=found["base_model"],
            datasets=[found["dataset"]] if found["dataset"] else [],
            metrics=sorted({metric for each in scores for metric, _, _ in each.metrics}),
            scores=scores,
            summary=_summary(found),
            sections={
                "Use": _usage(name),
                "Intended use and limits": _limits(found),
                "Scores": "\n\n".join(
                    [_meaning(found), scores_section(found), *([shown] if picture else [])]
                ),
                "Data": data_section(found),
                "Hyperparameters": f"```json\n{json.dumps(made, indent=2)}\n```",
            },
            library=LIBRARY,
        )
    )


def _on_the_hub(found: Mapping[str, Any], split: str, values: Mapping[str, float]) -> Scores:
    dataset = found["dataset"]
    return Scores(
        task="Semantic similarity" if found["kind"] == SIMILARITY else "Information retrieval",
        dataset=dataset or found["config"]["data"]["source"],
        title=found["title"],
        metrics=[
            (ON_THE_HUB[metric], round(value, 6), metric)
            for metric, value in values.items()
            if metric in ON_THE_HUB and math.isfinite(value)
        ],
        config=(found["config"]["data"].get("subset") or None) if dataset else None,
        split=split,
    )


def _summary(found: Mapping[str, Any]) -> str:
    source, model = start_shown(found["base_model"], path_names(found["init_from"])), found["model"]
    return (
        f"It maps a text to a vector of {model['width']:,} numbers and norm 1. Fine-tuned from {source}, a "
        f"{model['model_type']} of {model['parameters']:,} parameters, on pairs of texts that belong together, with "
        "[Unmask](https://github.com/unmask/unmask)."
    )


def _usage(name: str) -> str:
    return (
        "```python\n"
        "from sentence_transformers import SentenceTransformer\n\n"
        f"model = SentenceTransformer({quoted(name)})\n"
        'vectors = model.encode(["A text.", "Another text."])\n'
        "print(model.similarity(vectors, vectors))\n"
        "```"
    )


def _limits(found: Mapping[str, Any]) -> str:
    return (
        f"It was trained on texts of at most {found['config']['max_length']} tokens, to which longer ones are cut. "
        "What it does with texts unlike those of its training data has not been measured. Biases in the data are in "
        "the model."
    )


def _meaning(found: Mapping[str, Any]) -> str:
    if found["kind"] == SIMILARITY:
        return "Correlations of cosines with the scores of pairs."
    return "How well the second text of each pair is found among all second texts of the set, by cosine."
