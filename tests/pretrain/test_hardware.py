"""Peak rates by the names that JAX gives to devices."""

import types

import jax
import numpy as np
import pytest

from base.tpu_types import GENERATIONS
from pretrain.devices import hardware
from pretrain.devices.hardware import (
    Peak,
    device_memory,
    kept_peak,
    peak_flops,
    plausible_peak,
    published_peak,
)

# Multiprocessors, their boost clock in MHz at which the vendor states the peak, and the floating-point operations that
# one does in a cycle, of bfloat16 products (0: none) and of plain float32: from NVIDIA's architecture white papers.
UNITS = {
    "NVIDIA A100-SXM4-40GB": (108, 1410, 2048, 128),
    "NVIDIA A100 80GB PCIe": (108, 1410, 2048, 128),
    "NVIDIA A10": (72, 1695, 1024, 256),
    "NVIDIA H100 80GB HBM3": (132, 1830, 4096, 256),
    "NVIDIA H100 PCIe": (114, 1620, 4096, 256),
    "NVIDIA H200": (132, 1830, 4096, 256),
    "NVIDIA GH200 480GB": (132, 1830, 4096, 256),
    "NVIDIA B200": (148, 1850, 8192, 256),
    "NVIDIA L4": (58, 2040, 1024, 256),
    "NVIDIA L40S": (142, 2490, 1024, 256),
    "NVIDIA GeForce RTX 4090": (128, 2520, 512, 256),
    "NVIDIA GeForce RTX 3090": (82, 1695, 512, 256),
    "Tesla T4": (40, 1590, 0, 128),
    "Tesla V100-SXM2-16GB": (80, 1530, 0, 128),
    "Tesla V100-PCIE-32GB": (80, 1380, 0, 128),
}


@pytest.mark.parametrize("kind", UNITS)
def test_the_peak_of_a_gpu_is_what_its_units_do_at_its_clock(kind):
    count, megahertz, short, plain = (float(each) for each in UNITS[kind])
    bfloat16, tensor_float, full = (
        published_peak(kind, dtype, precision)
        for dtype, precision in (("bfloat16", "default"), ("float32", "default"), ("float32", "highest"))
    )
    cycles = count * megahertz * 1e6
    assert full == pytest.approx(cycles * plain, rel=0.15)
    if short:
        assert bfloat16 == pytest.approx(cycles * short, rel=0.02)
        assert tensor_float == pytest.approx(bfloat16 / 2, rel=0.02)
    else:
        assert (bfloat16, tensor_float) == (None, full)


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda one: one.name)
def test_the_peak_of_a_tpu_is_a_devices_share_of_its_chip_and_float32_takes_several_passes(generation):
    """tests/launch/test_accelerators.py has the chips' own figures."""
    peak = generation.chip_tera * 1e12 / generation.devices_per_chip
    for kind in generation.device_kinds:
        assert published_peak(kind, "bfloat16") == published_peak(kind, "float32") == peak
        assert published_peak(kind.lower(), "float32", "high") == pytest.approx(peak / 3)
        assert published_peak(kind, "float32", "highest") == pytest.approx(peak / 6)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("NVIDIA A40", "bfloat16"), ("TPU v9", "bfloat16"), ("Tesla T4", "bfloat16")]
)
def test_unknown_peaks_are_none(kind, dtype):
    assert published_peak(kind, dtype) is None


def test_a_cpu_is_measured_and_shared_by_its_fake_devices():
    peak = peak_flops(jax.devices("cpu")[0], "float32")
    ones = np.ones((256, 256), np.float32)
    assert peak.source == "measured"
    assert (
        np.isfinite(peak.flops_per_second) and peak.flops_per_second > ones.size
    )  # far above one product a second


def test_the_peak_is_not_lower_where_products_wait_for_other_programs(monkeypatch):
    elapsed = {"wall": 0.0, "cores": 0.0}

    def clock(name, seconds):
        def read():
            elapsed[name] += seconds
            return elapsed[name]

        return read

    device, measure = jax.devices("cpu")[0], getattr(hardware._measure, "__wrapped__", hardware._measure)
    monkeypatch.setattr(hardware, "_cores", lambda: 2)
    monkeypatch.setattr(hardware, "_share", lambda cores: cores)
    for wall, cores, expected in ((8.0, 2.0, 1.0), (1.0, 2.0, 1.0), (1.0, 4.0, 1.0)):
        monkeypatch.setattr(hardware.time, "perf_counter", clock("wall", wall))
        monkeypatch.setattr(hardware.time, "process_time", clock("cores", cores))
        assert measure(device, "float32", seconds=20.0, size=8) == 2 * 8**3 / expected


def test_a_container_has_as_many_cores_as_its_limit(tmp_path):
    (limit := tmp_path / "cpu.max").write_text("150000 100000\n")
    assert (hardware._share(8, limit), hardware._share(1, limit)) == (1.5, 1)
    limit.write_text("max 100000\n")
    assert hardware._share(8, limit) == hardware._share(8, tmp_path / "none") == 8


def test_a_resumed_run_keeps_its_peak_unless_the_machine_can_do_more(caplog):
    begun = Peak(100.0, "measured", "1 devices on 2 cores, float32 at default")
    assert kept_peak(begun, begun._replace(flops_per_second=30.0)) == begun
    assert kept_peak(begun, begun._replace(flops_per_second=109.0)) == begun
    assert caplog.text == ""
    higher = begun._replace(flops_per_second=420.0)
    assert kept_peak(begun, higher) == higher
    assert "measured 4.2 times too low when the run began" in caplog.text
    for other in (
        Peak(30.0, "measured", "1 devices on 4 cores, float32 at default"),
        Peak(30.0, "spec sheet"),
    ):
        assert kept_peak(begun, other) == other


def test_a_peak_below_what_steps_reach_is_measured_again(caplog):
    low = Peak(5.0, "measured", "1 devices on 2 cores, float32 at default")
    measured = []

    def measure(rate=100.0):
        measured.append(rate)
        return Peak(rate, "measured")

    assert plausible_peak(low, 4.9, measure) == low and not measured
    assert plausible_peak(low, 60.0, measure) == low._replace(flops_per_second=100.0)
    assert "measured 20.0 times too low, beside other work, and is measured again" in caplog.text
    assert plausible_peak(low, 60.0, lambda: measure(7.0)).flops_per_second == 60.0
    known = Peak(5.0, "spec sheet")
    assert plausible_peak(known, 60.0, measure) == known and len(measured) == 2


@pytest.mark.parametrize(
    ("begun", "now"),
    [
        (("NVIDIA H100 80GB HBM3", "bfloat16"), ("NVIDIA A100-SXM4-40GB", "bfloat16")),
        (("NVIDIA A100-SXM4-40GB", "bfloat16"), ("NVIDIA H100 80GB HBM3", "bfloat16")),
        (("NVIDIA H100 80GB HBM3", "bfloat16"), ("NVIDIA H100 80GB HBM3", "float32")),
    ],
    ids=str,
)
def test_a_run_on_another_accelerator_or_in_another_type_goes_by_what_that_can_do(begun, now, caplog):
    kept, found = (
        peak_flops(types.SimpleNamespace(platform="gpu", device_kind=kind), dtype)  # type: ignore[arg-type]
        for kind, dtype in (begun, now)
    )
    assert kept is not None and found is not None and kept != found
    assert kept_peak(kept, found) == found
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("platform", "kind", "source"),
    [("cpu", "cpu", "measured"), ("gpu", "NVIDIA A100-SXM4-40GB", "spec sheet")],
)
def test_a_device_of_another_process_has_a_peak_too(platform, kind, source):
    elsewhere = types.SimpleNamespace(platform=platform, device_kind=kind, process_index=1)
    peak = peak_flops(elsewhere, "float32")
    assert peak.source == source and peak.flops_per_second > 0


def test_memory_is_what_the_runtime_reports():
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 2**34, "bytes_in_use": 5})
    assert device_memory(device) == 2**34


def test_a_cpu_reports_no_memory():
    assert device_memory(jax.devices("cpu")[0]) is None
