"""README.md of a fine-tuned model: what it is, how it scores, how it was made."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.results import score


def card(found: Mapping[str, Any]) -> str:
    """The model card of a run's results (see `finetune.results.results`)."""
    best = found["runs"][found["best_run"]]
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["unmask", *(["glue", found["task"]] if found["task"] else [])],
    }
    counts = {name: examples["count"] for name, examples in found["examples"].items() if name != "train"}
    evaluated = ", ".join(f"{name} ({count:,} examples)" for name, count in counts.items())
    lines = [
        "---",
        *(f"{name}: {json.dumps(value)}" for name, value in head.items()),
        "---",
        "",
        f"# {found['title']}",
        "",
        f"Fine-tuned from `{shown_source(found['init_from'])}` with [Unmask](https://github.com/unmask/unmask).",
        "",
        "## Scores",
        "",
        f"On {evaluated}; this model is the run of seed {best['seed']}, epoch {best['epoch']:g}.",
        "",
        "| metric | this model | mean of runs | standard deviation | runs |",
        "|---|---|---|---|---|",
    ]
    rate = f"{best['learning_rate']:g}"
    runs = sum(run["learning_rate"] == best["learning_rate"] for run in found["runs"])
    for metric, summary in found["summary"][rate].items():
        lines.append(
            f"| {metric} | {score(metric, best['metrics'][metric])} | {score(metric, summary['mean'])} |"
            f" {score(metric, summary['std'])} | {runs} |"
        )
    if "onnx" in found:
        lines += ["", _exported(found)]
    lines += ["", "## Data", ""]
    for name, examples in found["examples"].items():
        official = "" if examples["official"] or not found["task"] else "; not the official set"
        lines.append(f"- {name}: {examples['count']:,} examples, {examples['origin']}{official}")
    lines += [
        "",
        "## Hyperparameters",
        "",
        "```json",
        json.dumps(hyperparameters(found), indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def _exported(found: Mapping[str, Any]) -> str:
    """How model.onnx compares."""
    metric, onnx = found["metric"], found["onnx"]
    return (
        f"`model.onnx` is the same model for onnxruntime: {metric} {score(metric, onnx['metrics'][metric])}; "
        f"its logits differ by {onnx['largest_difference']:.1e} at most."
    )


def hyperparameters(found: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the model, from the config of its run, without paths."""
    config, best = found["config"], found["runs"][found["best_run"]]
    names = ("epochs", "global_batch", "max_length", "label_smoothing", "dtype", "optimizer", "schedule")
    chosen = {name: config[name] for name in names}
    return {
        "seed": best["seed"],
        **chosen,
        "optimizer": {**chosen["optimizer"], "learning_rate": best["learning_rate"]},
    }


def shown_source(source: str) -> str:
    """A hub id as it is; of a path only its last part."""
    is_id = source.count("/") == 1 and not source.startswith((".", "~", "/")) and not Path(source).exists()
    return source if is_id else source.rstrip("/").rpartition("/")[2]
