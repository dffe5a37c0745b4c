"""A device's peak rate of matrix products, and its memory.

Model FLOPs utilisation (MFU) is a share of the peak rate. For an accelerator, the peak is the vendor's figure for dense
products. For a CPU it is measured here. For other devices it is unknown, and no MFU is shown.
"""

import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from base.tpu_types import GENERATIONS, TERA
from pretrain.models.matrix_products import einsum

logger = logging.getLogger(__name__)

SIZES = (512, 1024)
"""Sizes of the square matrices for the measurement of a CPU. Small products fit into the caches of few cores; large
products use all cores."""
NOISE = 1.1
"""Two measurements of the same machine may differ by this factor."""


class Peak(NamedTuple):
    """A device's peak rate of matrix products."""

    flops_per_second: float
    """Floating-point operations per second; a multiplication and an addition count as two."""
    source: str
    """'spec sheet' or 'measured'."""
    hardware: str = ""
    """Description of the measured hardware and the compute type; '' for a spec sheet."""


# A TPU computes float32 products as several passes in bfloat16 on the same units: one by default, three at 'high', six
# at 'highest'. base.tpu_types has the peaks of TPUs, with all other facts about them.
PASSES = {"default": 1, "high": 3, "highest": 6}

# Dense TFLOP/s in (bfloat16, float32 by default, float32 at 'high' or 'highest'). Sources: NVIDIA's data sheets and,
# for GeForce, its architecture white papers (float32 accumulation). By default XLA computes float32 products in
# TensorFloat-32 if the device has it (Ampere and later). 0: the device has no such units, so the peak is unknown. The
# first entry whose words all occur in `device_kind` counts.
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
    """The peak rate of matrix products of a device; None if it is not known.

    The measurement of a CPU takes about 0.6 s. So call this function once, before the first step.

    Args:
      device: one of `jax.devices()`. For a CPU of another process, a CPU of this process is measured instead.
      dtype: compute type, "float32" or "bfloat16".
      precision: `jax.default_matmul_precision` of float32 products: "default", "high" or "highest".
    """
    if device.platform == "cpu":
        local = jax.local_devices(backend="cpu")[0]
        count = jax.local_device_count("cpu")
        rate = max(_measure(local, dtype, size=size) for size in SIZES)
        return Peak(rate / count, "measured", f"{count} devices on {_cores()} cores, {dtype} at {precision}")
    known = published_peak(device.device_kind, dtype, precision)
    return None if known is None else Peak(known, "spec sheet")


def kept_peak(kept: Peak, now: Peak) -> Peak:
    """The peak that a resumed run uses: normally its first one, so that the MFU of the whole run has the same base.

    The new peak counts in three cases: it is a vendor's figure, the hardware has changed, or the new measurement is
    clearly higher. In the last case, other programs disturbed the first measurement.

    Args:
      kept: the peak from the start of the run.
      now: the peak of the present devices.
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


def plausible_peak(peak: Peak, reached: float, measure: Callable[[], Peak | None]) -> Peak:
    """The peak of a run whose steps reach a rate: a measured one below that rate is measured again.

    Other programs disturbed its measurement. The new peak is at least the rate that was reached.

    Args:
      peak: the run's, so far.
      reached: FLOP/s of a device in the run's steps.
      measure: measures it again; called only if need be.
    """
    if peak.source != "measured" or reached <= peak.flops_per_second:
        return peak
    again = measure()
    rate = max(reached, again.flops_per_second if again else 0.0)
    if rate > NOISE * peak.flops_per_second:
        logger.warning(
            "the peak of this machine was measured %.1f times too low, beside other work, and is measured again: "
            "train/mfu was too high by as much until here",
            rate / peak.flops_per_second,
        )
    return peak._replace(flops_per_second=rate)


def published_peak(device_kind: str, dtype: str, precision: str = "default") -> float | None:
    """The vendor's peak rate of an accelerator in FLOP/s; None if it is not known.

    Args:
      device_kind: JAX's name of the accelerator.
      dtype: compute type, as in `peak_flops`.
      precision: precision of float32 products, as in `peak_flops`.
    """
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
    """Memory of one of this process's devices in bytes, from its runtime; None if that does not report it (a CPU)."""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return None if limit is None else int(limit)


def _cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _share(cores: int, quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """The cores' worth of time that this process gets at most: less than its cores if its container has a quota.

    Args:
      cores: the cores that it may use.
      quota: the file of the container's limit (Linux, cgroup v2): the quota and the period in microseconds.
    """
    try:
        most, period = quota.read_text().split()
        return min(cores, int(most) / int(period))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return cores


def _measure(device: jax.Device, dtype: str, seconds: float = 0.3, size: int = 1024) -> float:
    """FLOP/s of the fastest square product within a time limit, with all threads of the process.

    The time of a product is its wall time, or the time of the processors that it took, divided by their number, if that
    is less. So other programs that run meanwhile do not make the peak lower. Where two of the processors are threads of
    one core and XLA keeps only one of them busy, the time is too short, and the peak up to twice as high as it is.

    Args:
      device: the CPU device.
      dtype: compute type.
      seconds: time limit of the measurement.
      size: size of the square matrices.
    """
    ones = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(functools.partial(einsum, "MK,KN->MN"))
    product(ones, ones).block_until_ready()
    best, end, share = float("inf"), time.perf_counter() + seconds, _share(_cores())
    while (start := time.perf_counter()) < end:
        worked = time.process_time()
        product(ones, ones).block_until_ready()
        worked = time.process_time() - worked
        best = min(best, time.perf_counter() - start, worked / share or best)
    return 2 * size**3 / best
