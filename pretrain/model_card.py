"""The model card (README.md) of an exported model: what it is, what it was made of, and how to make it again."""

import pprint
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data import schema
from data.config import DataConfig, SourceConfig, leaf_sources
from pretrain import formatting
from pretrain.config import PretrainConfig
from pretrain.metrics import Line
from pretrain.models import EncoderConfig, ParameterCount
from pretrain.phases import resolve_phases

LOSS_CURVE = "loss_curve.png"
NAMING_FIELDS = {
    "pydoc": (),
    "files": ("path",),
    "oscar": ("path", "subset"),
    "hub": ("name", "subset"),
    "tfds": ("name",),
}
"""Kind of source -> the fields of SourceConfig that say which documents it reads."""


@dataclass(frozen=True)
class CardFacts:
    """What a model card is written from."""

    name: str
    encoder: EncoderConfig
    parameters: ParameterCount
    config: Mapping[str, Any]
    """The run's config, as nested dicts."""
    step: int
    """The exported checkpoint's."""
    metrics: Sequence[Line]
    """Lines of metrics.jsonl up to that step."""
    mask_token: str
    has_loss_curve: bool


def model_card(facts: CardFacts) -> str:
    """The text of README.md: a YAML header that the hub reads, then Markdown.

    Only file names stand in for local and bucket paths, since cards are published.
    """
    sections = [
        _header(facts),
        f"# {facts.name}\n\n{_summary(facts)}",
        f"## Use\n\n{_usage(facts)}",
        f"## Data\n\n{_data(facts)}",
        f"## Training\n\n{_hyperparameters(facts)}",
        f"## Results\n\n{_results(facts)}",
        f"## Reproduction\n\n{_reproduction(facts)}",
    ]
    return "\n\n".join(sections) + "\n"


def _header(facts: CardFacts) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: fill-mask", "tags:"]
    lines += [f"- {tag}" for tag in (facts.encoder.model_type, "masked-lm", "unmask")]
    hub = sorted({source.name for source in _sources(facts) if source.source == "hub" and source.name})
    if hub:
        lines += ["datasets:", *(f"- {name}" for name in hub)]
    return "\n".join([*lines, "---"])


def _summary(facts: CardFacts) -> str:
    encoder = facts.encoder
    origin = facts.config["init_from"]
    start = f" starting from `{_public(origin)}`" if origin else ""
    return (
        f"A {encoder.model_type} masked language model of {formatting.count(facts.parameters.total)} parameters,"
        f" pretrained from text with Unmask{start}: {encoder.num_hidden_layers} layers, width {encoder.hidden_size},"
        f" {encoder.num_attention_heads} heads, a vocabulary of {encoder.vocab_size:,} tokens, rows of up to"
        f" {encoder.max_length} tokens."
    )


def _usage(facts: CardFacts) -> str:
    return (
        "```python\n"
        "from transformers import pipeline\n\n"
        f'fill_mask = pipeline("fill-mask", model="{facts.name}")\n'
        f'fill_mask("Some text with a {facts.mask_token} in it.")\n'
        "```"
    )


def _data(facts: CardFacts) -> str:
    read = _data_read(facts)
    sections = []
    for data, start in read.items():
        lines = [f"From step {start:,}:", ""] if len(read) > 1 else []
        lines += [_source_line(source, data) for source in leaf_sources(data)]
        share = f"{formatting.percent(data.eval_fraction, 2)} of the documents"
        held_out = "a source of its own" if data.eval_source else share
        lines += ["", f"Rows are packed as `{data.packing}`; held out for evaluation: {held_out}."]
        sections.append("\n".join(lines))
    return "\n\n".join(sections)


def _source_line(source: SourceConfig, data: DataConfig) -> str:
    """One source by the fields that its kind reads; what a recipe may have left in others was not used."""
    named = [_public(getattr(source, name)) for name in NAMING_FIELDS[source.source]]
    weight = [f"with weight {source.weight:g}"] if data.source == "mix" else []
    return " ".join([f"- `{source.source}`", *(f"`{part}`" for part in named if part), *weight])


def _hyperparameters(facts: CardFacts) -> str:
    config = facts.config
    optimizer, schedule, masking = config["optimizer"], config["schedule"], config["masking"]
    rows = {
        "steps": f"{facts.step:,}",
        "batch": f"{config['global_batch']:,} rows of {config['seq_len']} tokens",
        "optimizer": optimizer["name"],
        "betas, eps": f"{optimizer['beta1']}, {optimizer['beta2']}, {optimizer['eps']}",
        "peak learning rate": f"{optimizer['learning_rate']}",
        "schedule": f"{schedule['name']}, {schedule['warmup_steps']:,} steps of warm-up",
        "weight decay": f"{optimizer['weight_decay']} (not on biases and layer norms)",
        "gradient clipping": f"{optimizer['clip_norm'] or 'none'}",
        "masking": f"{formatting.percent(masking['rate'], 0)}{' of whole words' if masking['whole_word'] else ''}",
        "dropout": f"{facts.encoder.hidden_dropout_prob}, attention {facts.encoder.attention_probs_dropout_prob}",
        "compute type": config["dtype"],
        "seed": f"{config['seed']}",
    }
    for number, phase in enumerate(config["phases"], start=1):
        changed = ", ".join(
            f"{name}={value}" for name, value in phase.items() if value is not None and name != "data"
        )
        rows[f"phase {number}"] = changed
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _results(facts: CardFacts) -> str:
    evaluations = [line for line in facts.metrics if line.get("eval/loss") is not None]
    trained = [line for line in facts.metrics if line.get("train/loss") is not None]
    rows = []
    if evaluations:
        rows += [_row("held-out, last", evaluations[-1], "eval")]
        rows += [_row("held-out, best", min(evaluations, key=lambda line: line["eval/loss"]), "eval")]
    if trained:
        rows += [_row("training, last", trained[-1], "train")]
    if not rows:
        return "No metrics were logged."
    table = ["| | step | loss (nats per predicted token) | accuracy |", "|---|---|---|---|", *rows]
    picture = [] if not facts.has_loss_curve else ["", f"![Loss and accuracy over the run]({LOSS_CURVE})"]
    return "\n".join(table + picture)


def _row(label: str, line: Line, group: str) -> str:
    accuracy = line.get(f"{group}/accuracy")
    shown = "" if accuracy is None else formatting.percent(accuracy)
    return f"| {label} | {line['step']:,} | {line[f'{group}/loss']:.4f} | {shown} |"


def _reproduction(facts: CardFacts) -> str:
    defaults = schema.as_dict(PretrainConfig())
    recipe = pprint.pformat(_public_paths(_changed(defaults, facts.config)), width=100, sort_dicts=False)
    return (
        "Save as `recipe.py`, put your paths in where only a file name is left, and run the commands.\n\n"
        "```python\n"
        "import ml_collections\n\n\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict(RECIPE)\n\n\n"
        f"RECIPE = {recipe}\n"
        "```\n\n"
        "```sh\n"
        "python -m pretrain --config=recipe.py --workdir=DIR\n"
        f"python -m pretrain.export --workdir=DIR --step={facts.step} --out=OUT\n"
        "```"
    )


def _changed(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config differs from the defaults."""
    changed = {}
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            value = _changed(default, value)
            if value:
                changed[name] = value
        elif value != default:
            changed[name] = value
    return changed


def _public_paths(value: Any) -> Any:
    """Nested values with the folders taken out of every string that is a path."""
    if isinstance(value, Mapping):
        return {name: _public_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_public_paths(item) for item in value]
    return _public(value) if isinstance(value, str) else value


def _public(paths: str) -> str:
    """Comma-separated paths with the folders of absolute ones (local or in a bucket) taken out."""
    parts = []
    for part in paths.split(","):
        absolute = part.strip().startswith(("/", "~")) or "://" in part
        parts.append(part.rstrip("/").rsplit("/", 1)[-1] if absolute else part)
    return ",".join(parts)


def _data_read(facts: CardFacts) -> dict[DataConfig, int]:
    """The data of the phases that the checkpoint has seen, and the step from which each was read."""
    config = schema.build(PretrainConfig, facts.config)
    read: dict[DataConfig, int] = {}
    for phase in resolve_phases(config, epoch_steps=facts.step):
        if phase.start < facts.step:
            read.setdefault(phase.data, phase.start)
    return read


def _sources(facts: CardFacts) -> list[SourceConfig]:
    return [source for data in _data_read(facts) for source in leaf_sources(data)]
