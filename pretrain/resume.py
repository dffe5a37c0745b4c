"""What a run remembers besides its arrays, and what must be as it was when it goes on."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from base import schema
from base.errors import UserError
from data.streams import with_shard_order
from pretrain import given_network
from pretrain.config import PretrainConfig
from pretrain.job import Job
from pretrain.models import huggingface
from pretrain.publish import public_names
from pretrain.reports.recorder import Sums
from pretrain.runtime import processes
from pretrain.runtime.workdir import MODEL_FILE

logger = logging.getLogger(__name__)


@dataclass
class RunState:
    """What a run remembers besides its arrays; goes into every checkpoint."""

    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Positions of the streams of each corpus that the phases read, by `Job.data_keys`."""
    best: dict[str, float] | None = None
    """The best evaluation so far: {"step": ..., "eval/loss": ...}."""
    sums: Sums = field(default_factory=Sums)
    """Of the steps since the last log."""


def check_network(job: Job, workdir: epath.Path) -> None:
    """Refuse to go on with a network of another shape than the run began with, whatever was accepted."""
    was = json.loads((workdir / MODEL_FILE).read_text())
    now = huggingface.config_dict(job.encoder)
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name) and not name.endswith("dropout_prob"):
            raise UserError(
                f"the network of a run cannot change: config.model.{name} was {was.get(name)!r}, is {now.get(name)!r}; "
                "put it back, or start in another --workdir with --config.init_from"
            )


def check_fingerprints(job: Job, saved: dict[str, str], *, accept: bool) -> None:
    """Refuse to go on with another tokenizer or corpus than the run began with."""
    for name, was in saved.items():
        now = job.fingerprints.get(name)
        if now is None or now == was:
            continue
        what = "tokenizer" if name == "tokenizer" else "corpus"
        message = (
            f"the {what} is not the one this run was made with (fingerprint {was[:12]} then, {now[:12]} now)"
        )
        if not accept:
            raise UserError(f"{message}; put it back, or pass --accept_changes to go on with what is there")
        logger.warning("%s", message)


def stream_states(run: Mapping[str, Any], data_keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The positions of the streams in a checkpoint's `run` item, in the orders of shards that they were saved in.

    Positions of older runs do not say their order: it follows from the window of the last phase that read the corpus.
    """
    config, begin, shuffled = run["config"], 0, dict[str, bool]()
    for key, phase in zip(data_keys, config.get("phases") or [{"steps": run["step"]}]):
        if begin < run["step"]:
            shuffled[key] = (phase.get("data") or config["data"])["window"] > 1
        begin += phase["steps"]
    return {
        key: {
            stream: {**state, "start": with_shard_order(state["start"], shuffled.get(key, True))}
            for stream, state in states.items()
        }
        for key, states in run["data"].items()
    }


def provenance(saved: Mapping[str, Any] | None, job: Job, *, changed: bool) -> dict[str, Any]:
    """What a checkpoint says of how its run came about; goes into every checkpoint, for the model card.

    Args:
      saved: the `run` item that the run goes on from, None where it begins.
      job: the run.
      changed: whether the config differs from the saved one in what bears on the steps.

    Returns:
      "past": what the run was before each change, [{"until": step, "steps": of the run, "config": ...,
      "fingerprints": ...}], oldest first;
      "local": fields of the config that name a path where they could name something on the hub.
    """
    local, past = set(public_names.local_fields(schema.as_dict(job.given))), []
    if saved is not None:
        local |= set(saved.get("local", ()))
        past = list(saved.get("past", ()))
        was = saved["fingerprints"]
        if changed or any(job.fingerprints.get(name, was[name]) != was[name] for name in was):
            config = schema.completed(given_network.as_counted(saved, job.given), PretrainConfig)
            before = {"config": config, "fingerprints": was}
            past.append({"until": saved["step"], "steps": saved["steps"], **before})
    return {"past": past, "local": sorted(local)}


def of_all_processes(states: dict[str, Any]) -> dict[str, Any]:
    """The stream states of every process, by stream, on the first, which writes them; `states` are this one's."""
    merged: dict[str, Any] = {}
    for each in processes.gather(states):
        merged |= each
    return merged
