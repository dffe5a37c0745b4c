"""jax looks for a TPU only where there may be one; other devices it finds as ever."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pretrain.devices import platforms

ROOT = Path(__file__).parents[2]
GPU_LIKE = """
import jax, jax.extend.backend as backend
from jax._src.xla_bridge import make_cpu_client
from pretrain.devices.platforms import leave_out_absent_tpu
leave_out_absent_tpu()
backend.register_backend_factory("gpu-like", make_cpu_client, priority=200)
print(jax.devices()[0].client is backend.backends()["gpu-like"], "tpu" in backend.backends())
import jax.experimental.pallas.tpu
"""
"""A program that has a device which jax prefers to the CPU, as a plugin of CUDA brings it."""


def test_without_a_tpu_its_runtime_is_left_alone_and_another_device_is_chosen():
    unset = {"JAX_PLATFORMS", *platforms.VARIABLES}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", GPU_LIKE], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "True False\n", done.stderr
    assert "libtpu" not in done.stderr and "Source Location" not in done.stderr


COMMANDS = [
    "pretrain",
    "pretrain.export",
    "pretrain.fill_mask",
    "finetune",
    "finetune.evaluate",
    "finetune.predict",
]
"""Those that have jax start its devices; a plan says that it runs on a CPU."""
PROGRAM = """
import json, runpy, sys
from pretrain.devices import platforms
called, looked = [], {}
platforms.leave_out_absent_tpu = lambda: called.append("looked")
for command in json.loads(sys.argv[1]):
    sys.argv = ["x", "--config=/not/here.py", "--model=/not/here", "--workdir=/not/here", "--out=/not/here"]
    try:
        runpy.run_module(command, run_name="__main__")
    except SystemExit as end:
        assert end.code, "it should refuse"
    looked[command] = called.copy()
    called.clear()
print(json.dumps(looked))
"""


@pytest.fixture(scope="module")
def looked():
    """What each command has done before it has refused; one process runs them all."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(COMMANDS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_looks_no_further_before_it_does_anything(command, looked):
    assert looked[command] == ["looked"]


@pytest.mark.parametrize(
    "sign",
    ["none", "JAX_PLATFORMS", *platforms.VARIABLES, "accel0", "vfio/0", "vfio/devices/vfio0", "vfio/vfio"],
)
def test_a_sign_of_a_tpu_leaves_all_to_jax(sign, monkeypatch, tmp_path):
    for name in platforms.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if sign in platforms.VARIABLES:
        monkeypatch.setenv(sign, "0")
    elif sign[0] in "av":
        (tmp_path / sign).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / sign).touch()
    said = SimpleNamespace(jax_platforms="tpu" if sign == "JAX_PLATFORMS" else None)
    monkeypatch.setattr(platforms, "jax", SimpleNamespace(config=said))
    replaced = []
    monkeypatch.setattr(
        platforms.backend, "register_backend_factory", lambda name, *_, **__: replaced.append(name)
    )
    platforms.leave_out_absent_tpu(tmp_path)
    assert replaced == (["tpu"] if sign in ("none", "vfio/vfio") else [])
