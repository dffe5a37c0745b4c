"""Trackers of experiments: Weights & Biases, Trackio and MLflow, each through its own library.

A tracker works on a thread of its own, so that no step and no checkpoint waits for it or for a server. A run that goes
on continues the tracker's run, whose name is in WORKDIR/trackers.json. Keys and passwords never pass through here: the
libraries take them from their own variables and files.
"""

import importlib
import importlib.util
import json
import logging
import math
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from etils import epath

from base.errors import UserError
from base.json_files import json_object
from base.storage import is_remote, write_text
from pretrain.runtime.optional_outputs import attempt

logger = logging.getLogger(__name__)

FILE_NAME = "trackers.json"
"""{"wandb": "1a2b3c4d"}: the trackers' names for a run."""
PROJECT = "unmask"
VARIABLES = {"wandb": "WANDB_PROJECT", "trackio": "TRACKIO_PROJECT", "mlflow": "MLFLOW_EXPERIMENT_NAME"}
"""Environment variables that name the project where config.log.project does not."""
INSTALL = {
    "wandb": "pip install -c constraints.txt -e .[wandb]",
    "trackio": "pip install -e .[trackio]",  # it needs an older pillow than constraints.txt has
    "mlflow": "pip install -c constraints.txt -e .[mlflow]",
}
MOST_FAILURES = 3
"""After so many failures in a row a tracker gets no more of a run."""
CLOSE_SECONDS = 60.0
"""How long the end of a run waits for a tracker."""
MOST_PARAMS, LONGEST_PARAM = 100, 500
"""Of one call of MLflow's log_batch; and characters of a value."""

Values = Mapping[str, float]


def check_installed(trackers: Sequence[str]) -> None:
    """Refuse a tracker whose library is missing.

    Raises:
      UserError: it is; the message says how it is installed.
    """
    for name in trackers:
        if name in MAKERS and importlib.util.find_spec(name) is None:
            raise UserError(
                f"config.log.trackers has {name}, which is not installed: {INSTALL[name]}, "
                f"or leave it out: --config.log.trackers=\"('tensorboard',)\""
            )


class TrackedRun(Protocol):
    """A run of a tracker."""

    name: str
    """What the tracker finds it by."""

    def begin(self, config: Mapping[str, Any]) -> None:
        """Write the config of a run that is new; called once, after its name is kept."""

    def scalars(self, step: int, values: Values) -> None:
        """Write finite metrics of a step."""

    def close(self) -> None:
        """End it."""


class _Wandb:
    """A run of Weights & Biases. Steps are a metric, as a run that goes back makes some of them again."""

    def __init__(self, folder: epath.Path, project: str, known: str, config: Mapping[str, Any]):
        wandb = importlib.import_module("wandb")
        self.name = known or uuid.uuid4().hex[:8]
        self._run = wandb.init(
            project=project,
            id=self.name,
            name=_title(folder),
            config=dict(config),
            resume="allow",
            reinit="create_new",
            **({} if is_remote(folder) else {"dir": os.fspath(folder)}),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def begin(self, config: Mapping[str, Any]) -> None:
        """Do nothing: `init` has the config."""

    def scalars(self, step: int, values: Values) -> None:
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """A run of Trackio, which is found by its name."""

    def __init__(self, folder: epath.Path, project: str, known: str, config: Mapping[str, Any]):
        trackio = importlib.import_module("trackio")
        self.name = known or f"{_title(folder)}-{uuid.uuid4().hex[:8]}"
        self._run = trackio.init(
            project=project, name=self.name, config=dict(config), resume="allow", embed=False
        )

    def begin(self, config: Mapping[str, Any]) -> None:
        """Do nothing: `init` has the config."""

    def scalars(self, step: int, values: Values) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """A run of MLflow, on the server or in the folder of MLFLOW_TRACKING_URI."""

    def __init__(self, folder: epath.Path, project: str, known: str, config: Mapping[str, Any]):
        mlflow = importlib.import_module("mlflow")
        self._entities = importlib.import_module("mlflow.entities")
        self._client = mlflow.MlflowClient()
        if known:
            self.name = known
            self._client.update_run(known, status="RUNNING")
        else:
            found = self._client.get_experiment_by_name(project)
            experiment = found.experiment_id if found else self._client.create_experiment(project)
            self.name = self._client.create_run(experiment, run_name=_title(folder)).info.run_id

    def begin(self, config: Mapping[str, Any]) -> None:
        # Names may have no brackets, and a value that is logged may never change.
        params = [
            self._entities.Param(key.replace("[", ".").replace("]", ""), str(value)[:LONGEST_PARAM])
            for key, value in config.items()
        ]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self.name, params=params[first : first + MOST_PARAMS])

    def scalars(self, step: int, values: Values) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(key, value, now, step) for key, value in values.items()]
        self._client.log_batch(self.name, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self.name)


MAKERS: Mapping[str, Callable[[epath.Path, str, str, Mapping[str, Any]], TrackedRun]] = {
    "wandb": _Wandb,
    "trackio": _Trackio,
    "mlflow": _Mlflow,
}


class Tracker:
    """One tracker of a run. It is opened when there is something to write."""

    def __init__(self, kind: str, folder: epath.Path, project: str):
        """Do nothing yet.

        Args:
          kind: one of MAKERS.
          folder: the run's folder.
          project: config.log.project.
        """
        self._kind, self._folder = kind, folder
        self._project = project or os.environ.get(VARIABLES[kind]) or PROJECT
        self._config: Mapping[str, Any] = {}
        self._run: TrackedRun | None = None
        self._failures = 0
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=kind, daemon=True)
        self._thread.start()

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Take the flat config of a run that begins."""
        self._config = dict(values)

    def scalars(self, step: int, values: Values) -> None:
        """Have the finite scalars of a step written."""
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self._waiting.put(lambda: self._open().scalars(step, finite))

    def close(self) -> None:
        """End the tracker's run, and wait until all is written, CLOSE_SECONDS at most."""
        self._waiting.put(lambda: self._run.close() if self._run is not None else None)
        self._waiting.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning("%s is still at work; the run does not wait for it", self._kind)

    def _open(self) -> TrackedRun:
        if self._run is None:
            known = _names(self._folder).get(self._kind, "")
            self._run = MAKERS[self._kind](self._folder, self._project, known, self._config)
            if self._run.name != known:
                names = {**_names(self._folder), self._kind: self._run.name}
                write_text(self._folder / FILE_NAME, json.dumps(names, indent=2) + "\n")
                attempt(f"the config of the run of {self._kind}", self._run.begin, self._config)
        return self._run

    def _work(self) -> None:
        while (action := self._waiting.get()) is not None:
            if self._failures >= MOST_FAILURES:
                continue
            if attempt(self._kind, action):
                self._failures = 0
                continue
            self._failures += 1
            if self._failures == MOST_FAILURES or self._run is None:
                self._failures = MOST_FAILURES
                logger.warning("%s gets no more of this run; metrics.jsonl has everything", self._kind)


def _names(folder: epath.Path) -> dict[str, str]:
    """The trackers' names for the run in a folder."""
    try:
        found = json_object(folder / FILE_NAME)
    except (OSError, ValueError):
        return {}
    return {kind: name for kind, name in found.items() if isinstance(name, str)}


def _title(folder: epath.Path) -> str:
    """What people see of a run: its folder's name; of one of several runs, the workdir's too."""
    return f"{folder.parent.parent.name}/{folder.name}" if folder.parent.name == "runs" else folder.name
