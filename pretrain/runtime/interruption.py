"""SIGTERM, SIGHUP and Ctrl-C: stop the loop after the current step. All processes of a run stop after the same step."""

import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from base.interruptible import heeded, noted
from pretrain.devices.mesh import sharding
from pretrain.runtime import processes

FLAGS = "signals"


class Interruption:
    """While entered, SIGTERM, SIGHUP and SIGINT set `requested` instead of ending the process.

    A second signal changes nothing: the checkpoint being written is finished first.

    If there are several processes, any of them may get the signal, and steps are dispatched ahead of the devices. All
    must stop after the same step. So a batch carries the signal that each process has seen, and a step returns the
    highest of these with its metrics. Each process reads it there one step late and sets `requested`. This adds one
    number to a reduction that the devices make anyway. The hosts send nothing and do not wait.
    """

    def __init__(self, mesh: Mesh) -> None:
        """Stop the processes whose devices are in the mesh."""
        self._mesh = mesh
        self._several = processes.count() > 1
        self._seen = 0
        self._agreed = 0
        self._pending: jax.Array | None = None
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    @property
    def requested(self) -> str:
        """The signal that all processes stop for, by name; empty where there is none."""
        number = self._agreed if self._several else self._seen
        return signal.Signals(number).name if number else ""

    def carried_by(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A step (state, batch) -> (state, metrics) that also takes and returns the signals seen."""
        if not self._several:
            return step

        def carrying(state: Any, batch: Mapping[str, jax.Array]) -> Any:
            rest = dict(batch)
            seen = rest.pop(FLAGS)
            state, metrics = step(state, rest)
            return state, {**metrics, FLAGS: jnp.max(seen)}

        return carrying

    def abstract_flags(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and layout of what `flags` adds to a batch."""
        if not self._several:
            return {}
        layout = sharding(self._mesh, ("device",))
        return {FLAGS: jax.ShapeDtypeStruct((self._mesh.size,), np.int32, sharding=layout)}

    def flags(self) -> dict[str, jax.Array]:
        """What goes into the batch of the next step: for each device the signal that its process has seen."""
        seen = np.full(self._mesh.size, self._seen, np.int32)
        return {
            name: jax.make_array_from_callback(flag.shape, flag.sharding, lambda index: seen[index])
            for name, flag in self.abstract_flags().items()
        }

    def read(self, metrics: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Take the signals out of a step's metrics, and act on those of the step before; returns the other metrics."""
        rest = dict(metrics)
        before, self._pending = self._pending, rest.pop(FLAGS, None)
        if before is not None:
            self._agreed = self._agreed or int(before)
        return rest

    def __enter__(self) -> Self:
        """Take over the signals; one whose exception was lost before counts. Entered again, it goes on as it is."""
        handles = threading.current_thread() is threading.main_thread()  # Python has handlers nowhere else
        for number in heeded() if handles and not self._previous else ():
            self._previous[number] = signal.signal(number, self._request)
        self._seen = self._seen or noted() or 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._seen = number
