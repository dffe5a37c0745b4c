"""TPU types: what their names count, and what a wrong name is told."""

import pytest

from base.errors import UserError
from base.tpu_types import GENERATIONS, GIB, PUBLISHED, parse_topology, tpu_slice


@pytest.mark.parametrize(
    ("accelerator", "chips", "hosts", "devices", "gib", "topology"),
    [
        ("v2-8", 4, 1, 8, 8, "v2:2x2"),
        ("v3-8", 4, 1, 8, 16, "v3:2x2"),
        ("v3-32", 16, 4, 32, 16, "v3:4x4"),
        ("v3-2048", 1024, 256, 2048, 16, "v3:32x32"),
        ("v4-8", 4, 1, 4, 32, "v4:2x2x1"),
        ("v4-32", 16, 4, 16, 32, "v4:2x2x4"),
        ("v5litepod-1", 1, 1, 1, 16, "v5e:1x1"),
        ("v5litepod-8", 8, 1, 8, 16, "v5e:2x4"),
        ("v5litepod-16", 16, 4, 16, 16, "v5e:4x4"),
        ("v5litepod-256", 256, 64, 256, 16, "v5e:16x16"),
        ("v5p-8", 4, 1, 4, 95, "v5p:2x2x1"),
        ("v5p-12288", 6144, 1536, 6144, 95, "v5p:16x16x24"),
        ("v6e-8", 8, 1, 8, 32, "v6e:2x4"),
        ("v6e-16", 16, 4, 16, 32, "v6e:4x4"),
        ("tpu7x-8", 4, 1, 8, 96, "tpu7x:2x2x1"),
    ],
)
def test_a_name_says_chips_hosts_and_devices(accelerator, chips, hosts, devices, gib, topology):
    one = tpu_slice(accelerator)
    assert one.accelerator == accelerator
    assert (one.chips, one.hosts, one.devices) == (chips, hosts, devices)
    assert one.memory == gib * GIB
    assert one.topology == topology


def test_a_peak_is_that_of_a_device():
    assert tpu_slice("v3-8").peak_bf16 == 61.5e12  # half a chip
    assert tpu_slice("v4-8").peak_bf16 == 275e12  # a whole one


# Matrix units of a JAX device and their sides, by the same pages as the peaks.
UNITS = {
    "v2": (1, 128),
    "v3": (2, 128),
    "v4": (8, 128),
    "v5e": (4, 128),
    "v5p": (8, 128),
    "v6e": (4, 256),
    "tpu7x": (4, 256),
}


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda one: one.name)
def test_clock_and_peak_agree(generation):
    units, side = UNITS[generation.name]
    assert generation.peak_bf16 == pytest.approx(2 * units * side**2 * generation.clock_mhz * 1e6, rel=0.03)


def test_the_speed_of_links_says_where_it_comes_from():
    published = {one.name: one.link_gigabytes for one in GENERATIONS if one.link_source == PUBLISHED}
    assert published == {"v5e": 400, "v5p": 1200, "v6e": 800, "tpu7x": 1200}
    assert tpu_slice("v5litepod-16").link_bytes == 200e9  # in one direction


# Of a pod, by Google's pages: bisection bandwidth in GB/s, links that a cut through its torus crosses, links of a chip.
PODS = {
    "v3": (6400, 2 * 32, 4),
    "v4": (24_000, 2 * 16 * 16, 6),
    "v5e": (1600, 2 * 16, 4),
    "v6e": (3200, 2 * 16, 4),
}


@pytest.mark.parametrize("generation", PODS)
def test_the_speed_of_links_agrees_with_the_bisection_bandwidth_of_a_pod(generation):
    bisection, crossed, links = PODS[generation]
    (one,) = (one for one in GENERATIONS if one.name == generation)
    assert one.link_gigabytes == 2 * links * bisection / crossed


def test_the_memory_of_a_device_has_its_share_of_the_chips_speed():
    assert tpu_slice("v3-8").hbm_bytes == 450e9
    assert tpu_slice("v4-8").hbm_bytes == 1200e9


def test_every_type_is_read_back_and_grows():
    for generation in GENERATIONS:
        slices = [tpu_slice(name) for name in generation.types]
        assert [one.accelerator for one in slices] == list(generation.types)
        assert sorted(slices, key=lambda one: one.chips) == slices
        assert len({one.chips for one in slices}) == len(slices)
        assert all(one.chips % one.hosts == 0 for one in slices)


def test_what_only_gke_has_has_no_image_of_vms():
    assert [one.name for one in GENERATIONS if one.gke_only] == ["tpu7x"]
    assert [one.name for one in GENERATIONS if not one.runtime_version] == ["tpu7x"]


@pytest.mark.parametrize(
    ("text", "slices", "accelerator"),
    [
        ("v4-32", 1, "v4-32"),
        ("2x v5litepod-256", 2, "v5litepod-256"),
        ("2xv5litepod-256", 2, "v5litepod-256"),
        (" 16 x v4-8 ", 16, "v4-8"),
    ],
)
def test_a_topology_may_have_several_slices(text, slices, accelerator):
    assert parse_topology(text) == (slices, tpu_slice(accelerator))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "v3-9",
            r"TPU type 'v3-9' does not exist: v3 comes as v3-8, v3-32, .* \(the number counts TensorCores\)",
        ),
        ("v5litepod-12", r"v5litepod comes as v5litepod-1, v5litepod-4, .* \(the number counts chips\)"),
        ("v4", "TPU type 'v4' does not exist: v4 comes as v4-8"),
        ("v5e-16", r"TPU type 'v5e-16' is not known; did you mean v5litepod-16\?"),
        ("v5litpod-256", r"did you mean v5litepod-256\?"),
        ("V4-32", r"did you mean v4-32\?"),
        ("v5e-12", r"did you mean v5litepod-N \(v5litepod-1, ...\)\?"),
        (
            "a100-8",
            "is not known; known types are v2-N, v3-N, v4-N, v5litepod-N, v5p-N, v6e-N, tpu7x-N, for example v4-32",
        ),
        ("", "'' is not a TPU type; give one as v4-32"),
        ("2 v4-32", "is not a TPU type"),
        ("0x v4-32", "asks for 0 slices; give 1 to 256"),
    ],
)
def test_a_wrong_name_is_told_what_is_right(text, message):
    with pytest.raises(UserError, match=message):
        parse_topology(text)
