"""Where jax looks for devices: not on a TPU that this machine does not have.

libtpu, which `pretrain.plan` compiles with, is a runtime of TPUs too. jax starts it wherever it is installed, and where
there is no TPU it complains on standard error before jax goes on to the GPU or the CPU.
"""

import os
from pathlib import Path

import jax
from jax.extend import backend

DEVICES = ("accel[0-9]*", "vfio/[0-9]*", "vfio/devices/*")
"""Files of /dev by which libtpu reaches a chip: up to v5p, and since v5e, by its group or by itself."""
VARIABLES = ("TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID", "CLOUD_TPU_TASK_ID")
"""One of these is set in containers that have a TPU: those of Kubernetes Engine, Colab and Kaggle."""


def leave_out_absent_tpu(dev: Path = Path("/dev")) -> None:
    """Have jax pass over the TPU where this machine has none; to be called before jax starts its devices.

    JAX_PLATFORMS counts as it is, and so does JAX_FORCE_TPU_INIT. jax itself sets its platforms where it sees a TPU's
    chips on the PCI bus. GPUs are looked for as ever.

    Args:
      dev: the folder of the machine's devices.
    """
    said = jax.config.jax_platforms  # type: ignore[attr-defined]
    if said or any(os.environ.get(name) for name in VARIABLES):
        return
    if any(next(dev.glob(pattern), None) for pattern in DEVICES):
        return
    # Under its own name, so that jax still knows what a TPU is: Pallas and plans are written for one.
    backend.register_backend_factory("tpu", lambda: None, priority=0, fail_quietly=True)
