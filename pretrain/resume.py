"""The state of a run besides its arrays, and the checks of a run that resumes."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etils import epath

from base import schema
from base.errors import UserError
from base.json_files import json_object
from data.streams import with_shard_order
from pretrain import starting_network
from pretrain.config import PretrainConfig
from pretrain.job import CORPUS, Job
from pretrain.models import EncoderConfig, families, family_fields, huggingface
from pretrain.objective.objective import Z_LOSS_SUM
from pretrain.phases import Phase, objective_at, saved_phases
from pretrain.publish import public_names
from pretrain.runtime import changes, processes
from pretrain.runtime.workdir import MODEL_FILE, has_network
from pretrain.unused_fields import unused_fields

logger = logging.getLogger(__name__)

# Fields that only a run's start reads, and which may name a folder.
ORIGINS = ("init_from", "tokenizer.path", "model.config_file")


@dataclass
class RunState:
    """What a run remembers besides its arrays; goes into every checkpoint."""

    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Positions of the streams of each corpus that the phases read, by `Job.data_keys`."""
    best: dict[str, float] | None = None
    """The best evaluation so far: {"step": ..., "eval/loss": ...}."""


def check_network(job: Job, workdir: epath.Path) -> None:
    """Refuse to resume with a network of another shape, even with --accept_changes."""
    now, *others = (huggingface.config_dict(each) for each in (job.encoder, *_networks_of_phases(job)))
    if not has_network(workdir):
        logger.warning("%s is missing or damaged; it is made again from the config", workdir / MODEL_FILE)
        return
    was = json_object(workdir / MODEL_FILE)
    for name in sorted({*was, *now}):
        known = [each.get(name) for each in (now, *others)]
        if was.get(name) not in known and "dropout" not in name:
            raise UserError(
                f"the network of a run cannot change: config.model.{name} was {was.get(name)!r}, is {now.get(name)!r}; "
                "put it back, or start in another --workdir with --config.init_from"
            )


def _networks_of_phases(job: Job) -> list[EncoderConfig]:
    """The networks of the phases that differ from the run's, each of which model.json may describe."""
    networks = dict.fromkeys(phase.network(job.encoder) for phase in job.phases)
    return [network for network in networks if network != job.encoder]


def check_fingerprints(job: Job, saved: dict[str, str], *, accept: bool) -> None:
    """Refuse to go on with another tokenizer or corpus than the run began with."""
    for name, was in saved.items():
        now = job.fingerprints.get(name)
        if now is None or was in job.fingerprints.values():
            continue
        what = "tokenizer" if name == "tokenizer" else "corpus"
        message = (
            f"the {what} is not the one this run was made with (fingerprint {was[:12]} then, {now[:12]} now)"
        )
        if not accept:
            raise UserError(f"{message}; put it back, or pass --accept_changes to go on with what is there")
        logger.warning("%s", message)


def stream_states(run: Mapping[str, Any], job: Job) -> dict[str, dict[str, Any]]:
    """The positions of the streams in a checkpoint's `run` item, by the job's `data_keys`, with their order of shards.

    A corpus has the number of the first phase that reads it, so it may have another number in the phases of now.
    Positions of older runs lack the order. It follows from the window of the last phase that read the corpus.
    """
    data_keys = job.data_keys
    config, begin, shuffled = run["config"], 0, dict[str, bool]()
    for key, phase in zip(data_keys, config.get("phases") or [{"steps": run["step"]}]):
        if begin < run["step"]:
            shuffled[key] = (phase.get("data") or config["data"])["window"] > 1
        begin += phase["steps"]
    positions = {
        key: {
            stream: {**state, "start": with_shard_order(state["start"], shuffled.get(key, True))}
            for stream, state in states.items()
        }
        for key, states in run["data"].items()
    }
    numbers = {corpus: name.removeprefix(CORPUS) for name, corpus in job.fingerprints.items()}
    now = {key: numbers.get(run["fingerprints"].get(CORPUS + key)) for key in positions}
    # The position in a corpus that is not there any more is that of the corpus in its place.
    gone = {key: states for key, states in positions.items() if now[key] is None}
    return gone | {number: positions[key] for key, number in now.items() if number is not None}


def objective_sums(run: Mapping[str, Any], config: PretrainConfig) -> dict[str, float]:
    """The objective's sums over the steps since the last log, from a checkpoint's `run` item.

    A sum that these steps lack is NaN, and so is its metric in the next log: `maskable_sum` of older runs, and
    `z_loss_sum` of a run that has a z-loss from here on. A run that has none from here on does not log it.
    """
    saved = dict(run["sums"])
    if not saved.get("weight_sum"):
        return {}
    z_loss = {Z_LOSS_SUM: saved.pop(Z_LOSS_SUM, math.nan)}
    return {"maskable_sum": math.nan, **saved, **(z_loss if config.objective.z_loss else {})}


def best_evaluation(run: Mapping[str, Any], job: Job) -> dict[str, float] | None:
    """The best evaluation of a checkpoint's `run` item; None where evaluations have other rows or masks from now on."""
    config, step = schema.restored(PretrainConfig, run["config"]), run["step"]
    was, now = (_evaluated(phases, step) for phases in (saved_phases(run["config"], step), job.phases))
    settings = [(each.masking_rate, each.steps) for each in (config.eval, job.config.eval)]
    return run["best"] if was == now and settings[0] == settings[1] else None


def _evaluated(phases: Sequence[Phase], step: int) -> tuple[Any, ...]:
    """What decides the rows of the evaluations of the phase in which a step was made."""
    phase = next((each for each in phases if step <= each.stop), phases[-1]).whole
    data = phase.data
    return phase.seq_len, phase.global_batch, data.packing, data.eval_fraction, data.eval_source


def provenance(saved: Mapping[str, Any] | None, job: Job, *, changed: bool) -> dict[str, Any]:
    """The history of a run. Every checkpoint holds it, for the model card.

    Args:
      saved: the `run` item that the run goes on from, None where it begins.
      job: the run.
      changed: whether a field that affects the steps differs from the saved config.

    Returns:
      "past": what the run was before each change, [{"until": step, "steps": of the run, "config": ...,
      "fingerprints": ...}], oldest first;
      "local": fields of the config that hold a path, although they could hold an id of the hub.
    """
    local, past = set(public_names.local_fields(schema.as_dict(job.given))), []
    if saved is not None:
        local |= set(saved.get("local", ()))
        past = list(saved.get("past", ()))
        was = saved["fingerprints"]
        if changed or any(job.fingerprints.get(name, was[name]) != was[name] for name in was):
            config = schema.completed(starting_network.as_counted(saved, job.given), PretrainConfig)
            before = {"config": config, "fingerprints": was}
            past.append({"until": saved["step"], "steps": saved["steps"], **before})
    return {"past": past, "local": sorted(local)}


def of_all_processes(states: dict[str, Any]) -> dict[str, Any]:
    """Gather the stream states of all processes on the first one, which writes them; `states` are this process's."""
    merged: dict[str, Any] = {}
    for each in processes.gather(states):
        merged |= each
    return merged


def check_learned(saved: Mapping[str, Any], phases: Sequence[Phase]) -> None:
    """Refuse phases that change the objective of steps that the run has made.

    The sums since the last log and the best evaluation belong to the old objective.

    Args:
      saved: the `run` item of the checkpoint that the run goes on from.
      phases: the run's, as they are now.

    Raises:
      UserError: the objective of a made step changes; the message names the step and its objective.
    """
    done = saved["step"]
    was = saved_phases(saved["config"], done)
    for step in sorted({min(phase.stop, done) for phase in (*was, *phases)}):
        learned, said = objective_at(was, step), objective_at(phases, step)
        if learned != said:
            phase = next((each for each in phases if step <= each.stop), phases[-1])
            raise UserError(
                f"step {step} of this run has learned {learned}, and config.phases now says {said} "
                f"({phase.place('objective')}): put the phases of steps that are done back, or start in another "
                "--workdir (--config.init_from takes over the weights)"
            )


def _refusal(name: str, old: Any, new: Any) -> str:
    """Why a field cannot change, whatever is accepted; empty where it can."""
    what = _fixed(name)
    back = "the old value back (that folder need not exist any more)" if name in ORIGINS else "it back"
    return what and (
        f"{what} of a run cannot change: config.{name} was {old!r}, is {new!r}; "
        f"put {back}, or start in another --workdir (--config.init_from takes over the weights)"
    )


def _fixed(name: str) -> str:
    """The part of a run that a field fixes for the whole run; empty for fields that may change."""
    start = (
        *("init_from", "init_weights", "init_tiled", "init_vocabulary"),
        *(f"model.{each}" for each in starting_network.START),
    )
    if name in start or name.startswith("tokenizer."):
        return "the start"
    if name in ("data.streams", "data.split_files") or name in {
        f"model.{each}" for each in (*starting_network.NETWORK, *starting_network.HELD)
    }:
        return "the network and the streams"
    if name == "objective.name":
        return "the objective outside of phases"
    return ""


def _means_the_same(name: str, old: Any, new: Any, saved: Mapping[str, Any], config: PretrainConfig) -> bool:
    """Whether a changed field has no effect: nothing reads it, the given network decides, or both values name the same
    folder or the same examples of a program."""
    group, _, leaf = name.rpartition(".")
    given = starting_network.is_given(config) and starting_network.is_given(saved)
    if group == "model" and leaf in starting_network.DROPOUTS:
        default = family_fields.default_dropout(families.get(config.model.family), leaf)
        return starting_network.same_dropout(old, new, given=given, default=default)
    if group == "model" and leaf in starting_network.NETWORK and given:
        return True  # the workdir's model.json decides, and fields that are set are compared with it
    if name in ORIGINS and old and new:
        return Path(old).expanduser().resolve() == Path(new).expanduser().resolve()
    if changes.same_examples(old, new):
        return True
    if name == "tokenizer.path" and not new and config.init_from:
        return True  # the workdir's tokenizer decides
    idle = (*unused_fields(schema.build(PretrainConfig, saved)), *unused_fields(config))
    return any(each.covers(name) for each in idle if not each.unless_as_late)


RULES = changes.Rules(
    config=PretrainConfig,
    safe=changes.SAFE_IN_PRETRAINING,
    means_the_same=_means_the_same,
    refusal=_refusal,
)
