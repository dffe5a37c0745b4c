"""What a device can do: its peak rate of matrix products and its memory.

The peak is what model FLOPs utilisation (MFU) is a share of. For accelerators it is the vendor's figure for
dense products; for a CPU it is measured here; for anything else it is unknown, and no MFU is shown.
"""

import functools
import logging
import os
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from base.tpu_types import GENERATIONS, TERA
from pretrain.models.matrix_products import einsum

logger = logging.getLogger(__name__)

SIZES = (512, 1024)
"""Sides of the products that a CPU is measured by: small ones find gaps beside other work, large ones use all cores."""
NOISE = 1.1
"""Two measurements of one machine may differ by such a factor."""


class Peak(NamedTuple):
    """A device's peak rate of matrix products."""

    flops_per_second: float
    """Floating-point operations per second; a multiply and an add are two."""
    source: str
    """'spec sheet' or 'measured'."""
    hardware: str = ""
    """What was measured, and for which type."""


# Products of float32 arrays run on a TPU as bfloat16 passes on the same units: one by default, three at 'high', six
# at 'highest'. Peaks of TPUs are in base.tpu_types, with everything else about them.
PASSES = {"default": 1, "high": 3, "highest": 6}

# TFLOP/s in (bfloat16, float32 by default, float32 at 'high' or 'highest'), dense, from NVIDIA's data sheets
# and, for GeForce, its architecture white papers (float32 accumulation). By default XLA runs float32 products
# as TensorFloat-32 where the device has it (Ampere and later). 0: the device has no such units, and the peak
# is unknown. The first entry whose words all occur in `device_kind` counts.
GPU_PEAKS: Mapping[str, tuple[float, float, float]] = {
    "B200": (2250, 1125, 75),  # HGX B200, an eighth of the board
    "H200 NVL": (835.5, 417.5, 60),
    "H200": (989, 494.5, 67),
    "GH200": (989, 494.5, 67),
    "H100 PCIe": (756, 378, 51),
    "H100 NVL": (835.5, 417.5, 60),
    "H100": (989, 494.5, 67),  # SXM5: 'NVIDIA H100 80GB HBM3'
    "A100": (312, 156, 19.5),
    "A10": (125, 62.5, 31.2),
    "L40S": (362, 183, 91.6),
    "L4": (121, 60, 30.3),
    "T4": (0, 8.1, 8.1),
    "V100 SXM2": (0, 15.7, 15.7),
    "V100 PCIE": (0, 14, 14),
    "RTX 4090": (165.2, 82.6, 82.6),
    "RTX 3090": (71, 35.6, 35.6),
}


def peak_flops(device: jax.Device, dtype: str, precision: str = "default") -> Peak | None:
    """The peak rate of matrix products of `device` for inputs of `dtype`, or None where it is not known.

    A CPU is measured, which takes about 0.6 s: call this once, before the first step.

    Args:
      device: one of `jax.devices()`; of another process's CPU, one of this process is measured in its place.
      dtype: compute type, "float32" or "bfloat16".
      precision: `jax.default_matmul_precision` of float32 products: "default", "high" or "highest".
    """
    if device.platform == "cpu":
        local = jax.local_devices(backend="cpu")[0]
        count = jax.local_device_count("cpu")
        rate = max(_measure(local, dtype, size=size) for size in SIZES)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return Peak(rate / count, "measured", f"{count} devices on {cores} cores, {dtype} at {precision}")
    known = published_peak(device.device_kind, dtype, precision)
    return None if known is None else Peak(known, "spec sheet")


def kept_peak(kept: Peak, now: Peak) -> Peak:
    """The peak that a resumed run goes by: the one it was begun with, so that its MFU is a share of one figure.

    The new one counts where it is a vendor's figure, where the hardware is another, and where the machine can do
    clearly more than was measured beside other work.
    """
    if now.source != "measured" or kept.hardware != now.hardware:
        return now
    if now.flops_per_second <= NOISE * kept.flops_per_second:
        return kept
    logger.warning(
        "the peak of this machine was measured %.1f times too low when the run began, beside other work: train/mfu is "
        "lower from here on",
        now.flops_per_second / kept.flops_per_second,
    )
    return now


def published_peak(device_kind: str, dtype: str, precision: str = "default") -> float | None:
    """The vendor's peak in FLOP/s of the accelerator that JAX calls `device_kind`; see `peak_flops`."""
    for generation in GENERATIONS:
        if device_kind.lower() in {kind.lower() for kind in generation.device_kinds}:
            return generation.peak_bf16 / (PASSES[precision] if dtype == "float32" else 1)
    words = device_kind.upper().replace("-", " ").split()
    for kind, (bfloat16, tensor_float, full) in GPU_PEAKS.items():
        if all(word.upper() in words for word in kind.split()):
            tera = bfloat16 if dtype == "bfloat16" else tensor_float if precision == "default" else full
            return tera * TERA or None
    return None


def device_memory(device: jax.Device) -> int | None:
    """Bytes of memory of `device`, one of this process, by its runtime; None where that does not say (a CPU)."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return None if limit is None else int(limit)


def _measure(device: jax.Device, dtype: str, seconds: float = 0.3, size: int = 1024) -> float:
    """FLOP/s of the fastest of the square products that fit into `seconds`, with all threads of the
    process."""
    ones = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(functools.partial(einsum, "MK,KN->MN"))
    product(ones, ones).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        product(ones, ones).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
