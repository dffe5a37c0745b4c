"""Every test sees 8 CPU devices, a shared compilation cache, and no network."""

import functools
import gc
import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# Two workers share two cores: PyTorch's threads would wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most of a test is compilation: what LLVM does to make code fast takes longer than the slow code.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# And the older emitters of fused loops take a third of the newer ones' time; tests/compiled.py has the newer. A small
# program that is split into parts takes a tenth longer.
if version("jaxlib").startswith("0.10."):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)
# Programs leave out the lines of Python that they come from.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# Small programs too, which are many; for commands that tests start as well.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "xla"))

import jax
import pytest

from base import storage
from pretrain.devices import hardware
from tests import checkpoints, traced_once

jax.config.update("jax_num_cpu_devices", 8)
traced_once.install()
checkpoints.split_large_arrays_alone()
storage.PAUSES = (0.0,) * len(storage.PAUSES)  # reading is tried again at once
hardware._measure = functools.cache(hardware._measure)  # every run of pretraining asks, and it takes 0.6 s


gc.set_threshold(
    10_000, 10, 10
)  # tracing makes many objects, few of them garbage: a tenth of the time went into this


FIRST = (
    "faults/test_several_processes",
    "finetune/test_finetuning",
    "pretrain/test_family_runs",
    "launch/test_end_to_end",
    "launch/test_slurm_job",
    "faults/test_resume",
    "finetune/test_onnx",
    "finetune/test_classifier_parity",
    "test_api",
    "faults/test_launcher_job",
    "finetune/test_config_fields",
    "finetune/test_finetune_settings_act",
    "pretrain/test_models_parity",
    "finetune/test_classifier",
    "pretrain/test_gcs",
    "pretrain/test_narrow_layers",
    "pretrain/test_mesh",
    "pretrain/test_plan",
    "pretrain/test_hub_push",
    "pretrain/test_vocabulary",
    "pretrain/test_train",
    "faults/test_bad_numbers",
    "faults/test_signals",
)
"""Files that take longest. They begin first, so that none is left over to one worker at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of FIRST before the others; the tests of a file stay together and in order."""
    folder = Path(__file__).parent
    names = [item.path.relative_to(folder).with_suffix("").as_posix() for item in items]
    places = [FIRST.index(name) if name in FIRST else len(FIRST) for name in names]
    items[:] = [items[index] for index in sorted(range(len(items)), key=places.__getitem__)]


def pytest_collection_finish() -> None:
    """Have Python's garbage collector pass over what the libraries have made when they were imported."""
    gc.collect()
    gc.freeze()
