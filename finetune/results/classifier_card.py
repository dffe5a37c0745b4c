"""README.md of a fine-tuned model: what it is, how to use it, how it scores, how it was made."""

import json
import math
from collections.abc import Mapping
from typing import Any

from data.labelled.tasks import MULTI_LABEL, QUESTIONS, TOKENS
from finetune.results.glue_metrics import COMBINED
from finetune.results.results_file import names_on_the_hub, score
from pretrain.config import CardConfig
from pretrain.publish.card_writer import Card, Scores, pipeline_snippet, quoted, start_shown, written
from pretrain.publish.markdown import code, escape, table
from pretrain.publish.public_names import path_names

MOST_CLASSES = 100
"""If there are more classes than this, the card lists only this number of them."""
ON_THE_HUB = {
    "accuracy": "accuracy",
    "exact_match": "exact_match",
    "f1": "f1",
    "f1_macro": "f1",
    "f1_micro": "f1",
    "precision": "precision",
    "recall": "recall",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""Our names of metrics -> the hub's names; those of the user's own keep theirs."""
NOT_ON_THE_HUB = (*COMBINED, "loss", "threshold", "average_chosen")
"""What is no metric of the hub: means of two metrics, and what no model is compared by."""
TASK, WORDS_TASK, QUESTIONS_TASK = "text-classification", "token-classification", "question-answering"
"""The hub's names of what a model does."""


USE_OF_QUESTIONS = """```python
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name})
model = AutoModelForQuestionAnswering.from_pretrained({name})
question, context = "Who wrote it?", "It was written by a poet."
given = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
offsets = given.pop("offset_mapping")[0]
with torch.no_grad():
    found = model(**given)
start = int(found.start_logits.argmax())
end = start + int(found.end_logits[0, start:].argmax())
print(context[offsets[start][0] : offsets[end][1]])
```

A context that does not fit into {length} tokens is cut into windows that overlap; the span with the highest sum of both
logits is the answer. Unmask's `python -m finetune.predict` does so."""


def card(found: Mapping[str, Any], name: str, *, picture: str = "") -> str:
    """The model card of a run's results (see `finetune.results.results_file.results`).

    Of paths only their last names stand in it, since cards are published.

    Args:
      found: the results.
      name: what the model is to be loaded by: its id on the hub, or its folder.
      picture: the file beside the card that shows the predictions; '' for none.
    """
    # Results of an earlier version lack the hub's ids of the model and the data set.
    found = {**names_on_the_hub(found["init_from"], found["config"]["data"]), **found}
    scores = [_on_the_hub(found, split, values) for split, values in scores_by_split(found).items()]
    shown = f"![Predictions and labels of the evaluation set]({picture})"
    return written(
        Card(
            title=name.removesuffix("/model").rpartition("/")[2],
            pipeline=_pipeline(found),
            tags=["glue", found["task"]] if found["task"] else [],
            settings=CardConfig(**found["config"].get("card", {})),
            base_model=found["base_model"],
            datasets=[found["dataset"]] if found["dataset"] else [],
            metrics=sorted({metric for each in scores for metric, _, _ in each.metrics}),
            scores=scores,
            summary=_summary(found),
            sections={
                "Use": _usage(found, name),
                "Intended use and limits": _limits(found),
                "Scores": "\n\n".join([scores_section(found), *([shown] if picture else [])]),
                "Data": data_section(found),
                "Hyperparameters": f"```json\n{json.dumps(hyperparameters(found), indent=2)}\n```",
            },
        )
    )


def hyperparameters(found: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that determine its model, without paths."""
    config, best = found["config"], found["runs"][found["best_run"]]
    stretch = "steps" if config.get("steps") else "epochs"
    names = (stretch, "global_batch", "grad_accum", "max_length", "label_smoothing", "dtype")
    chosen = {name: config[name] for name in (*names, "optimizer", "schedule") if name in config}
    if found.get("kind") == QUESTIONS:
        chosen["questions"] = config["questions"]
    dropped = {name: rate for name, rate in config.get("model", {}).items() if "dropout" in name}
    return {
        "seed": best["seed"],
        **chosen,
        **({"model": dropped} if dropped else {}),
        "optimizer": {**chosen["optimizer"], "learning_rate": best["learning_rate"]},
    }


def scores_by_split(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What the best run's model scores on each set: {'validation': {'accuracy': 0.9, ...}}."""
    evaluations = [split for split in found["examples"] if split.startswith("validation")] or [""]
    named = {split.removeprefix("validation_"): split for split in evaluations}
    scored: dict[str, dict[str, float]] = {}
    for metric, value in found["runs"][found["best_run"]]["metrics"].items():
        part, _, plain = metric.rpartition("/")
        scored.setdefault(named.get(part, part or evaluations[0]), {})[plain] = value
    return scored | {split: dict(values) for split, values in found.get("tests", {}).items()}


def _on_the_hub(found: Mapping[str, Any], split: str, values: Mapping[str, float]) -> Scores:
    """The scores on one set that the hub has names for."""
    dataset = found["dataset"]
    return Scores(
        task=_does(found),
        dataset=dataset or found["config"]["data"]["source"],
        title=found["title"],
        metrics=[
            (ON_THE_HUB.get(metric, metric), round(value, 6), metric)
            for metric, value in values.items()
            if metric not in NOT_ON_THE_HUB and math.isfinite(value)
        ],
        config=(found["task"] or found["config"]["data"].get("subset") or None) if dataset else None,
        split=split,
        revision=(found["config"]["data"].get("revision") or None) if dataset else None,
    )


def _pipeline(found: Mapping[str, Any]) -> str:
    return {TOKENS: WORDS_TASK, QUESTIONS: QUESTIONS_TASK}.get(found.get("kind", ""), TASK)


def _does(found: Mapping[str, Any]) -> str:
    if found.get("kind") == TOKENS:
        return "Token classification"
    if found.get("kind") == QUESTIONS:
        return "Question answering"
    return "Text classification" if _classes(found) else "Text scoring"


def _classes(found: Mapping[str, Any]) -> list[str]:
    """Names of the classes by id; none of a model of scores, or where older results do not say."""
    return list(found.get("classes", ()))


def _summary(found: Mapping[str, Any]) -> str:
    source = start_shown(found["base_model"], path_names(found["init_from"]))
    classes = _classes(found)
    does = f"one of {len(classes)} classes" if classes else "a score"
    pairs = "Pairs of texts are" if found.get("texts") == 2 else "A text is"
    if found.get("kind") == MULTI_LABEL:
        does = f"any number of {len(classes)} classes"
    if found.get("kind") == TOKENS:
        pairs = "Each word of a text is"
    given = f" {pairs} given {does}." if "classes" in found else ""
    if found.get("kind") == QUESTIONS:
        given = " It answers a question by a span of a context."
    network = ""
    if model := found.get("model"):
        network = f", a {model['model_type']} of {model['parameters']:,} parameters"
    trained = f"Fine-tuned from {source}{network}, with [Unmask](https://github.com/unmask/unmask)."
    return f"{trained}{given}"


def _usage(found: Mapping[str, Any], name: str) -> str:
    length = found["config"]["max_length"]
    if found.get("kind") == QUESTIONS:
        return USE_OF_QUESTIONS.format(name=quoted(name), length=length)
    text = (
        '{"text": "The first text.", "text_pair": "The second text."}'
        if found.get("texts") == 2
        else '"A text."'
    )
    cut = f"{text}, truncation=True, max_length={length}"
    asked = {TOKENS: '"A text."', MULTI_LABEL: f"{cut}, top_k=None"}.get(found.get("kind", ""), cut)
    snippet = pipeline_snippet("classify", _pipeline(found), name, asked)
    classes = _classes(found)
    if not classes:
        note = "\n\nThe answer's `score` is the score; its label means nothing."
        return f"{snippet}{note if 'classes' in found else ''}"
    rows = [(str(index), code(label)) for index, label in enumerate(classes[:MOST_CLASSES])]
    more = (
        f"\n\nAll {len(classes):,} classes are `id2label` in config.json." if len(classes) > len(rows) else ""
    )
    return f"{snippet}\n\n{table(('id', 'class'), rows)}{more}"


def _limits(found: Mapping[str, Any]) -> str:
    what = "classes" if _classes(found) else "scores"
    if found.get("kind") == QUESTIONS:
        return (
            "It answers questions and contexts like those of its training data; what it does with others has not been "
            "measured. It copies from the context and does not check what that says. Biases in the data are in the "
            "model."
        )
    return (
        f"It gives the {what} of its training data to texts like those of its training data; what it does with others, "
        "or with longer ones, which are cut, has not been measured. Biases in the data are in the model."
    )


def scores_section(found: Mapping[str, Any]) -> str:
    """The scores of a run's best model, and their means and deviations over its runs, in Markdown."""
    best = found["runs"][found["best_run"]]
    counts = {name: examples["count"] for name, examples in found["examples"].items() if name != "train"}
    evaluated = ", ".join(f"{escape(name)} ({count:,} examples)" for name, count in counts.items())
    rate = f"{best['learning_rate']:g}"
    runs = sum(run["learning_rate"] == best["learning_rate"] for run in found["runs"])
    rows = [
        [
            metric,
            score(metric, best["metrics"][metric]),
            score(metric, summary["mean"]),
            score(metric, summary["std"]),
        ]
        for metric, summary in found["summary"][rate].items()
    ]
    header = ("metric", "this model", "mean of runs", "standard deviation", "runs")
    lines = [
        f"On {evaluated}; this model is the run of seed {best['seed']}, epoch {best['epoch']:g}.",
        "",
        table(header, [[*row, str(runs)] for row in rows]),
    ]
    for split, values in found.get("tests", {}).items():
        scored = [(metric, score(metric, value)) for metric, value in values.items()]
        counts = found.get("test_examples", {}).get(split, {})
        number = f" ({counts.get('labelled', counts['count']):,} examples)" if counts else ""
        lines += ["", f"On {escape(split)}{number}; this set took no part in choosing the model:"]
        lines += ["", table(("metric", "this model"), scored)]
    if "onnx" in found:
        lines += ["", _exported(found)]
    return "\n".join(lines)


def _exported(found: Mapping[str, Any]) -> str:
    """How model.onnx compares."""
    metric, onnx = found["metric"], found["onnx"]
    return (
        f"`model.onnx` is the same model for onnxruntime: {metric} {score(metric, onnx['metrics'][metric])}; "
        f"its logits differ by {onnx['largest_difference']:.1e} at most."
    )


def data_section(found: Mapping[str, Any]) -> str:
    """The sets of examples of a run, in Markdown."""
    lines = []
    for name, examples in (found["examples"] | found.get("test_examples", {})).items():
        labelled = f", {examples['labelled']:,} of them labelled" if "labelled" in examples else ""
        unofficial = found["task"] and not examples.get("official", True)
        lines.append(
            f"- {escape(name)}: {examples['count']:,} examples{labelled}, {escape(examples['origin'])}"
            + ("; not the official set" if unofficial else "")
        )
    return "\n".join(lines)
