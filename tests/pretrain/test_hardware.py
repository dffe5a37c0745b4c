"""Peak rates by the names that JAX gives to devices."""

import types

import jax
import numpy as np
import pytest

from pretrain.devices.hardware import Peak, device_memory, kept_peak, peak_flops, published_peak


@pytest.mark.parametrize(
    ("kind", "dtype", "precision", "tera"),
    [
        ("TPU v2", "bfloat16", "default", 22.5),
        ("TPU v3", "bfloat16", "default", 61.5),
        ("TPU v4", "bfloat16", "default", 275),
        ("TPU v4", "float32", "default", 275),
        ("TPU v4", "float32", "highest", 275 / 6),
        ("TPU v5 lite", "bfloat16", "default", 197),
        ("TPU v5", "bfloat16", "default", 459),
        ("TPU v6 lite", "bfloat16", "default", 918),
        ("TPU7x", "bfloat16", "default", 1153.5),
        ("NVIDIA A100-SXM4-40GB", "bfloat16", "default", 312),
        ("NVIDIA A100-SXM4-40GB", "float32", "default", 156),
        ("NVIDIA A100 80GB PCIe", "float32", "highest", 19.5),
        ("NVIDIA H100 80GB HBM3", "bfloat16", "default", 989),
        ("NVIDIA H100 PCIe", "bfloat16", "default", 756),
        ("NVIDIA H200", "bfloat16", "default", 989),
        ("NVIDIA B200", "bfloat16", "default", 2250),
        ("NVIDIA L4", "bfloat16", "default", 121),
        ("NVIDIA L40S", "bfloat16", "default", 362),
        ("Tesla T4", "float32", "default", 8.1),
        ("Tesla V100-SXM2-16GB", "float32", "default", 15.7),
    ],
)
def test_published_peaks(kind, dtype, precision, tera):
    assert published_peak(kind, dtype, precision) == pytest.approx(tera * 1e12)


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
