"""Fine-tuning runs here take two of the eight devices, unless their config asks for more, and a model of one layer."""

import math

import jax
import pytest

from finetune import job
from finetune.population.state import population_mesh
from finetune.results import final_outputs
from tests.finetune import tiny_task

DEVICES = 2
READERS = (job, final_outputs)
"""Modules that make a run's mesh; a test of `population_mesh` itself sees all devices."""


def mesh_of_few(config, members):
    """The mesh of a run on two devices; on all where the sizes that its config sets are more."""
    asked = math.prod(size for size in vars(config).values() if size > 0)
    return population_mesh(config, members, jax.devices()[: None if asked > DEVICES else DEVICES])


@pytest.fixture(scope="package", autouse=True)
def _small_runs():
    """Not by `monkeypatch`: that pauses `tests.traced_once`, and what is traced does not call this."""
    layers, tiny_task.LAYERS = tiny_task.LAYERS, 1
    for module in READERS:
        module.population_mesh = mesh_of_few
    yield
    tiny_task.LAYERS = layers
    for module in READERS:
        module.population_mesh = population_mesh
