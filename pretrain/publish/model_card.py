"""The model card (README.md) of an exported model: what it is, what it was made of, and how to make it again."""

import itertools
import math
import pprint
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from base import formatting, schema
from base.schema import Unused
from base.set_fields import Given, settled
from data.config import DataConfig, SourceConfig, leaf_sources
from pretrain import starting_network
from pretrain.config import CardConfig, PretrainConfig
from pretrain.models import EncoderConfig, ParameterCount, families, family_fields
from pretrain.objective.names import TRAITS
from pretrain.phases import Phase, objective_at, resolve_phases
from pretrain.publish import public_names
from pretrain.publish.card_learning import export_flags, loss_row, moments_rows, rate_text, weights_row
from pretrain.publish.card_objective import TEXTS, ObjectiveText, limits, usage
from pretrain.publish.card_scores import measured_on, perplexity
from pretrain.publish.card_writer import Card, start_shown, written
from pretrain.publish.markdown import code, table
from pretrain.reports.end_summary import LOSS_CURVE
from pretrain.reports.metric_writer import Line
from pretrain.runtime.changes import SAFE_IN_PRETRAINING
from pretrain.unused_fields import unused_fields

NAMING_FIELDS = {
    "pydoc": (),
    "files": ("path",),
    "oscar": ("path", "subset"),
    "hub": ("name", "subset"),
    "tfds": ("name",),
    "prepared": ("path",),
}
"""Kind of source -> the fields of SourceConfig that say which documents it reads."""


@dataclass(frozen=True)
class CardFacts:
    """What a model card is written from."""

    name: str
    """What the model is loaded by: its id on the hub, or its folder's name."""
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
    past: Sequence[Mapping[str, Any]] = ()
    """The earlier configs and fingerprints of a run that changed on the way, see `pretrain.resume.provenance`."""
    local: Collection[str] | None = None
    """Fields of the config that hold a path, although they could hold an id of the hub. None: they are found here."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Of tokenizer and corpora."""
    documents: int = 0
    """Number of documents read, with repetitions; 0 if it is not known."""
    card: CardConfig = CardConfig()
    """What the user says."""
    weights: str = "raw"
    """The weights of the checkpoint: "raw", or their moving "average"."""
    mean_of: int = 1
    """The number of checkpoints whose weights' mean is exported."""

    @cached_property
    def paths(self) -> Collection[str]:
        """The fields that could name something on the hub and name a path."""
        return public_names.local_fields(self.config) if self.local is None else self.local

    @cached_property
    def public(self) -> dict[str, Any]:
        """The config for publication, without unused fields and without folders of the machine."""
        return self.published(self.config)

    def published(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config of the run, present or past, for publication, as a recipe that repeats its part of the run."""
        built = schema.restored(PretrainConfig, config)
        everything = Given(recipe=frozenset(schema.flatten(schema.as_dict(built))))

        def idle_fields(each: PretrainConfig) -> list[Unused]:
            return [replace(one, by=()) for one in unused_fields(each) if not one.unless_as_late]

        read = settled(built, everything, idle_fields)
        if starting_network.is_given(read):
            network = starting_network.as_begun(self.encoder, {"config": self.config})
            read = starting_network.with_network(read, Given(), network, lambda note: None)
            rates, last = starting_network.dropout(self.encoder), self.config["model"]
            idle = {name: last.get(name) for name in rates if last.get(name) != rates[name]}
        else:
            family = families.get(read.model.family)
            idle = {name: family_fields.default_dropout(family, name) for name in starting_network.DROPOUTS}
        unset: dict[str, Any] = {
            name: None for name, rate in idle.items() if getattr(read.model, name) == rate
        }
        read = replace(read, model=replace(read.model, **unset))
        return public_names.published(schema.as_dict(read), self.paths)

    @cached_property
    def learned(self) -> str:
        """The objective that was learned last."""
        phases = resolve_phases(schema.build(PretrainConfig, self.public), epoch_steps=self.step)
        return objective_at(phases, self.step)

    @property
    def objective(self) -> ObjectiveText:
        """What is said of that objective."""
        return TEXTS[self.learned]

    @property
    def base_model(self) -> str:
        """The model on the hub that the run started from; '' where there is none."""
        return "" if "init_from" in self.paths else self.public["init_from"]


def model_card(facts: CardFacts) -> str:
    """The text of README.md.

    Only file names stand in for local and bucket paths, since cards are published.
    """
    used = {source.name for source in _sources(facts) if source.source == "hub"}
    datasets = sorted(used & public_names.hub_datasets(facts.config, facts.paths))
    scores = _scores(facts)
    measured = [(name, round(value, 4), None) for name, value in scores.items()]
    return written(
        Card(
            title=facts.name.rpartition("/")[2],
            pipeline=facts.objective.pipeline,
            tags=[facts.objective.tag, facts.encoder.model_type],
            settings=facts.card,
            base_model=facts.base_model,
            datasets=datasets,
            metrics=list(scores),
            scores=[measured_on(facts.objective.task, facts.config, _sources(facts), datasets, measured)]
            if scores
            else [],
            summary=_summary(facts),
            sections={
                "Use": _usage(facts),
                "Intended use and limits": limits(facts.learned, facts.encoder.family),
                "Data": _data(facts),
                "Training": _hyperparameters(facts),
                "Results": _results(facts),
                "Reproduction": _reproduction(facts),
            },
        )
    )


def _scores(facts: CardFacts) -> dict[str, float]:
    """Loss, perplexity and accuracy on held-out documents at the last evaluation."""
    evaluations = _evaluations(facts)
    if not evaluations:
        return {}
    last = evaluations[-1]
    values = {
        "loss": last["eval/loss"],
        "perplexity": perplexity(last, "eval"),
        "accuracy": last.get("eval/accuracy"),
    }
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


def _evaluations(facts: CardFacts) -> list[Line]:
    """The evaluations of the weights that are exported; a mean of checkpoints has none."""
    if facts.mean_of > 1:
        return []
    if facts.weights == "average":
        names = {"eval/loss": "eval/average_loss", "eval/accuracy": "eval/average_accuracy"}
        lines = [line | {name: line.get(theirs) for name, theirs in names.items()} for line in facts.metrics]
    else:
        lines = list(facts.metrics)
    return [line for line in lines if line.get("eval/loss") is not None]


def _summary(facts: CardFacts) -> str:
    encoder, origin = facts.encoder, facts.public["init_from"]
    start = f" starting from {start_shown(facts.base_model, origin)}" if origin else ""
    return (
        f"A {encoder.model_type} {facts.objective.kind} of {formatting.count(facts.parameters.total)} parameters,"
        f" pretrained from text with Unmask{start}: {encoder.num_hidden_layers} layers, width {encoder.hidden_size},"
        f" {encoder.num_attention_heads} heads, a vocabulary of {encoder.vocab_size:,} tokens, rows of up to"
        f" {encoder.max_length} tokens."
    )


def _usage(facts: CardFacts) -> str:
    return usage(facts.learned, facts.encoder.family, facts.name, facts.mask_token)


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
    seen = f"{_tokens(facts):,} tokens, in rows of which some may be padding"
    documents = (
        f", from {facts.documents:,} documents, repeated ones counted again" if facts.documents else ""
    )
    return "\n\n".join([*sections, f"Seen in training: {seen}{documents}."])


def _source_line(source: SourceConfig, data: DataConfig) -> str:
    """One source by the fields that its kind reads; what a recipe may have left in others was not used."""
    named = [getattr(source, name) for name in NAMING_FIELDS[source.source]]
    weight = [f"with weight {source.weight:g}"] if data.source == "mix" else []
    return " ".join([f"- `{source.source}`", *(code(part) for part in named if part), *weight])


def _tokens(facts: CardFacts) -> int:
    """Tokens of all rows of all steps, of each config for as long as it held."""
    total = start = 0
    for stage in (*facts.past, {"config": facts.config, "until": facts.step}):
        until = min(stage["until"], facts.step)
        for phase in resolve_phases(schema.build(PretrainConfig, stage["config"]), epoch_steps=until):
            steps = max(min(phase.stop, until) - max(phase.start, start), 0)
            total += steps * phase.global_batch * phase.seq_len
        start = until
    return total


def _hyperparameters(facts: CardFacts) -> str:
    config = facts.public
    optimizer, schedule, masking = config["optimizer"], config["schedule"], config["masking"]
    planned = resolve_phases(schema.build(PretrainConfig, config), epoch_steps=facts.step)
    phases = [phase for phase in planned if phase.start < facts.step]
    batches = [f"{phase.global_batch:,} rows of {phase.seq_len} tokens" for phase in phases]
    rates = [_mask_rate(phase) for phase in phases if TRAITS[phase.objective].hides_tokens]
    learned = _in_turn([TEXTS[phase.objective].task.lower() for phase in phases])
    rows = {
        "steps": f"{facts.step:,}",
        **weights_row(config, facts.weights, facts.mean_of),
        **({} if len(rates) == len(phases) else {"objective": learned}),
        **loss_row(config["objective"]),
        "batch": _in_turn(batches),
        "optimizer": optimizer["name"],
        **moments_rows(optimizer),
        "peak learning rate": rate_text(
            optimizer, _in_turn([f"{phase.learning_rate:g}" for phase in phases])
        ),
        "schedule": f"{schedule['name']}, {schedule['warmup_steps']:,} steps of warm-up",
        "weight decay": f"{optimizer['weight_decay']} (not on biases and layer norms)",
        "gradient clipping": f"{optimizer['clip_norm'] or 'none'}",
        **({"masking": f"{_in_turn(rates)}{' of whole words' * masking['whole_word']}"} if rates else {}),
        "dropout": f"{facts.encoder.hidden_dropout}, attention {facts.encoder.attention_probs_dropout_prob}",
        "compute type": config["dtype"],
        "seed": f"{config['seed']}",
    }
    for number, phase in enumerate(config["phases"], start=1):
        changed = ", ".join(
            f"{name}={value}" for name, value in phase.items() if value is not None and name != "data"
        )
        rows[f"phase {number}"] = changed
    note = ["Some of these values were different earlier in the run, see below.", ""] if facts.past else []
    return "\n".join([*note, table(("", ""), list(rows.items()))])


def _mask_rate(phase: Phase) -> str:
    """The mask rate of a phase, or the rates of its first and its last step."""
    ends = phase.whole.mask_rates.ends if phase.whole.mask_rates else (phase.masking_rate,)
    return " to ".join(dict.fromkeys(formatting.percent(rate, 0) for rate in ends))


def _in_turn(values: Sequence[str]) -> str:
    """The value of each phase, in order. Equal values of successive phases appear once."""
    return ", then ".join(value for value, _ in itertools.groupby(values))


def _results(facts: CardFacts) -> str:
    evaluations = _evaluations(facts)
    trained = [line for line in facts.metrics if line.get("train/loss") is not None]
    rows = []
    if evaluations:
        rows += [_row("held-out, last", evaluations[-1], "eval")]
        rows += [_row("held-out, best", min(evaluations, key=lambda line: line["eval/loss"]), "eval")]
    if trained:
        rows += [_row("training, last", trained[-1], "train")]
    if not rows:
        return "No metrics were logged."
    header = ("", "step", "loss (nats per predicted token)", "accuracy", "perplexity")
    picture = [] if not facts.has_loss_curve else ["", f"![Loss and accuracy over the run]({LOSS_CURVE})"]
    return "\n".join([table(header, rows), *picture])


def _row(label: str, line: Line, group: str) -> list[str]:
    accuracy = line.get(f"{group}/accuracy")
    shown = "" if accuracy is None else formatting.percent(accuracy)
    loss = f"{line[f'{group}/loss']:.4f}"
    return [label, f"{line['step']:,}", loss, shown, f"{perplexity(line, group):.4g}"]


def _reproduction(facts: CardFacts) -> str:
    flags = export_flags(facts.weights, facts.mean_of)
    export = f"python -m pretrain.export --workdir=DIR --step={facts.step}{flags} --out=OUT\n```"
    put_in = "put your paths in where only a name is left"
    if not facts.past:
        return (
            f"Save as `recipe.py`, {put_in}, and run the commands.\n\n"
            "```python\n"
            "import ml_collections\n\n\n"
            "def get_config():\n"
            "    return ml_collections.ConfigDict(RECIPE)\n\n\n"
            f"RECIPE = {_recipe(facts.public)}\n"
            "```\n\n"
            "```sh\n"
            "python -m pretrain --config=recipe.py --workdir=DIR\n"
            f"{export}"
        )
    stages = [*facts.past, {"config": facts.config, "fingerprints": facts.fingerprints}]
    public = [facts.published(stage["config"]) for stage in stages]
    changes = []
    for before, after, old, new in zip(stages, stages[1:], public, public[1:]):
        changes += [f"- after step {before['until']:,}: {what}" for what in _changes(before, after, old, new)]
    recipes = ",\n".join(f"'{number}': {_recipe(config)}" for number, config in enumerate(public, start=1))
    commands = [
        f"python -m pretrain --config=recipe.py:{number} --workdir=DIR{' --accept_changes' if number > 1 else ''}"
        for number in range(1, len(stages) + 1)
    ]
    stops = [
        "" if stage["until"] == _steps(stage) else f"   # stop it, by Ctrl-C, after step {stage['until']}"
        for stage in facts.past
    ]
    lines = [f"{command}{stop}\n" for command, stop in zip(commands, [*stops, ""])]
    return (
        "The run was changed on the way:\n\n" + "\n".join(changes) + "\n\n"
        f"Save as `recipe.py`, {put_in}, and run the commands.\n\n"
        "```python\n"
        "import ml_collections\n\n\n"
        "def get_config(part):\n"
        "    return ml_collections.ConfigDict(RECIPES[part])\n\n\n"
        f"RECIPES = {{\n{recipes},\n}}\n"
        "```\n\n"
        f"```sh\n{''.join(lines)}{export}"
    )


def _steps(stage: Mapping[str, Any]) -> int | None:
    """Steps that a run was to have, as its config was then; None where they are not known."""
    config = stage["config"]
    return stage.get("steps") or sum(phase["steps"] for phase in config["phases"]) or config["steps"]


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[str]:
    """What differs between two stages of a run, whose published configs are `old` and `new`."""
    fields = [
        f"`config.{name}` from {code(repr(was))} to {code(repr(now))}"
        for name, (was, now) in schema.differences(old, new).items()
        if not name.startswith(SAFE_IN_PRETRAINING)
    ]
    was, now = before["fingerprints"], after["fingerprints"]
    texts = [f"another {name}" for name in was if name in now and was[name] != now[name]]
    return fields + texts or ["a path"]


def _recipe(config: Mapping[str, Any]) -> str:
    """What of a published config differs from the defaults, as Python."""
    defaults = public_names.published(schema.as_dict(PretrainConfig()), ())
    return pprint.pformat(_changed(defaults, config), width=100, sort_dicts=False)


def _changed(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config differs from the defaults."""
    changed = {}
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            value, default = _changed(default, value), {}
        if value != default:
            changed[name] = value
    return changed


def _data_read(facts: CardFacts) -> dict[DataConfig, int]:
    """The data of the phases that the checkpoint has seen, and the step from which each was read."""
    config = schema.build(PretrainConfig, facts.public)
    read: dict[DataConfig, int] = {}
    for phase in resolve_phases(config, epoch_steps=facts.step):
        if phase.start < facts.step:
            read.setdefault(phase.data, phase.start)
    return read


def _sources(facts: CardFacts) -> list[SourceConfig]:
    return [source for data in _data_read(facts) for source in leaf_sources(data)]
