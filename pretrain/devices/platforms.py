"""Keep jax from starting the TPU runtime on a machine without a TPU.

`pretrain.plan` compiles with libtpu, which is also the runtime of TPUs. jax starts libtpu on every machine that has it
installed. Without a TPU, libtpu prints errors to standard error before jax tries the GPU or the CPU.
"""

import os
from pathlib import Path

import jax
from jax.extend import backend

DEVICES = ("accel[0-9]*", "vfio/[0-9]*", "vfio/devices/*")
"""Device files in /dev of a TPU chip: `accel*` up to v5p; since v5e, `vfio/*` for its group or `vfio/devices/*`."""
VARIABLES = ("TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID", "CLOUD_TPU_TASK_ID")
"""Environment variables of containers with a TPU (Kubernetes Engine, Colab, Kaggle). At least one of them is set."""


def leave_out_absent_tpu(dev: Path = Path("/dev")) -> None:
    """Make jax skip the TPU platform if this machine has no TPU. Call this before jax starts its devices.

    If jax's platforms are set, nothing changes: by JAX_PLATFORMS, by JAX_FORCE_TPU_INIT, or by jax itself, which sets
    them when it sees TPU chips on the PCI bus. The search for GPUs does not change.

    Args:
      dev: the folder of device files.
    """
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    if platforms or any(os.environ.get(name) for name in VARIABLES):
        return
    if any(next(dev.glob(pattern), None) for pattern in DEVICES):
        return
    # The platform keeps its name "tpu", so that jax still knows it: Pallas and the plan compile for TPUs.
    backend.register_backend_factory("tpu", lambda: None, priority=0, fail_quietly=True)
