"""The TPU types of Google Cloud: chips, hosts and JAX devices of each type, and the limits of a device.

This is the only table of these figures. Launchers take the machines from it; `pretrain.plan` and
`pretrain.devices.hardware` take memory, rates and links. The number in a type's name does not always count chips:
`v3-8`, `v4-8` and `v5p-8` have 8 TensorCores on 4 chips, `v5litepod-8` and `v6e-8` have 8 chips. On v2, v3 and 7x,
JAX sees each TensorCore as a device. On v4 and v5p the two TensorCores of a chip work as one device (megacore).
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from base.errors import UserError

GIB = 1024**3
TERA = 1e12
PUBLISHED = "Google's figure"
MOST_SLICES = 256
"""A larger number of slices is refused as a typing error: the largest published Multislice run joined 199."""


@dataclass(frozen=True)
class TpuSlice:
    """One slice: chips that are joined by their own links, and the properties of one of its JAX devices."""

    accelerator: str
    """gcloud's name of the type: 'v4-32'."""
    generation: str
    """'v2', 'v3', 'v4', 'v5e', 'v5p', 'v6e' or 'tpu7x'."""
    chips: int
    hosts: int
    """Number of machines (TPU VMs); each runs one process of a run."""
    devices: int
    """Number of JAX devices on all hosts."""
    memory: int
    """HBM of one JAX device, in bytes."""
    clock_hz: float
    """Clock rate of a TensorCore, in Hz."""
    peak_bf16: float
    """Peak rate of bfloat16 matrix products of one JAX device, in FLOP/s."""
    hbm_bytes: float
    """Rate of the HBM of one JAX device, in bytes/s."""
    link_bytes: float
    """Rate at which a chip can send through all its links within the slice, in bytes/s."""
    link_source: str
    """Where the rate of the links comes from, in words."""
    runtime_version: str
    """Image of the TPU VMs, for gcloud's --version; empty if there is none (GKE only)."""
    topology: str
    """libtpu's name of the generation, and the number of chips along each axis: 'v4:2x2x4'."""
    gke_only: bool
    """Whether only Kubernetes Engine offers it, and not TPU VMs."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Properties that all slices of a generation share."""

    name: str
    """libtpu's name: 'v5e'."""
    prefix: str
    """First part of gcloud's type names: 'v5litepod'."""
    device_kinds: tuple[str, ...]
    """The generation's names in `jax.Device.device_kind`."""
    counted: int
    """How much each chip adds to the number in a type's name: 2 (it counts TensorCores) or 1 (it counts chips)."""
    devices_per_chip: int
    chip_memory: float
    """HBM of a chip, in GiB."""
    hbm_gigabytes: float
    """Rate of a chip's HBM, in GB/s."""
    chip_tera: float
    """Peak rate of bfloat16 matrix products of a chip, in TFLOP/s."""
    clock_mhz: float
    runtime_version: str
    shapes: tuple[str, ...]
    """Number of chips along each axis, for every size on offer, smallest first."""
    link_gigabytes: float
    """Rate of all links of a chip, both directions, in GB/s."""
    link_source: str = PUBLISHED
    """Where that rate comes from, in words."""
    one_host: int = 4
    """Largest number of chips on one host; a larger slice has 4 chips on each host."""
    gke_only: bool = False

    @property
    def peak_bf16(self) -> float:
        """Peak rate of bfloat16 matrix products of one JAX device, in FLOP/s."""
        return self.chip_tera * TERA / self.devices_per_chip

    @property
    def types(self) -> Mapping[str, str]:
        """The shape of every type, by gcloud's name."""
        return {f"{self.prefix}-{self.counted * _chips(shape)}": shape for shape in self.shapes}


# Sources. Memory, rates, links and sizes: Google's pages "TPU v2" to "TPU v6e" and "TPU7x (Ironwood)" at
# cloud.google.com/tpu/docs; sizes also from GKE's page "Plan TPUs". Runtime versions: "TPU software versions".
# Clock of v2 and v3, v2's rates of HBM and links (4 of 496 Gbit/s in each direction): Norrie et al. 2021, "The Design
# Process for Google's Training Chips: TPUv2 and TPUv3". Clock of v4: Jouppi et al. 2023, "TPU v4: An Optically
# Reconfigurable Supercomputer". The other clocks follow from the pages' peak rate and matrix units: peak = 2 x units x
# side^2 x clock, which also holds for the first three. Units of a chip: v5e 4 of 128 x 128, v5p 2 x 4 of 128 x 128, v6e
# 4 of 256 x 256, 7x 2 x 4 of 256 x 256. Some pages name only 2 units for v6e and 7x, but libtpu's compiler issues more
# products in a cycle than 2 units could compute. The pages give no rate of v3's and v4's links. It follows from the
# bisection bandwidth of a pod: 6.4 TB/s through 2 x 32 links of a 32 x 32 torus, 24 TB/s through 2 x 16 x 16 links of a
# torus of 16 x 16 x 16. The same sum gives the published rates of v5e and v6e.
_PLANES = ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32")
_LITE_PLANES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SMALL_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")
_CUBES = (*_SMALL_CUBES, "4x4x8", "4x8x8", "8x8x8", "8x8x12", "8x8x16", "8x16x16")
_LARGE_CUBES = (*_CUBES, "16x16x16", "16x16x24")
_BISECTION = "derived from Google's bisection bandwidth of a pod"
_UBUNTU = "tpu-ubuntu2204-base"
GENERATIONS = (
    Generation(
        name="v2",
        prefix="v2",
        device_kinds=("TPU v2",),
        counted=2,
        devices_per_chip=2,
        chip_memory=16,
        hbm_gigabytes=700,
        chip_tera=45,
        clock_mhz=700,
        runtime_version=_UBUNTU,
        shapes=_PLANES[:6],
        link_gigabytes=496,
        link_source="from Norrie et al. 2021",
    ),
    Generation(
        name="v3",
        prefix="v3",
        device_kinds=("TPU v3",),
        counted=2,
        devices_per_chip=2,
        chip_memory=32,
        hbm_gigabytes=900,
        chip_tera=123,
        clock_mhz=940,
        runtime_version=_UBUNTU,
        shapes=_PLANES,
        link_gigabytes=800,
        link_source=_BISECTION,
    ),
    Generation(
        name="v4",
        prefix="v4",
        device_kinds=("TPU v4",),
        counted=2,
        devices_per_chip=1,
        chip_memory=32,
        hbm_gigabytes=1200,
        chip_tera=275,
        clock_mhz=1050,
        runtime_version=_UBUNTU,
        shapes=_CUBES,
        link_gigabytes=562.5,
        link_source=_BISECTION,
    ),
    Generation(
        name="v5e",
        prefix="v5litepod",
        device_kinds=("TPU v5 lite", "TPU v5e"),
        counted=1,
        devices_per_chip=1,
        chip_memory=16,
        hbm_gigabytes=819,
        chip_tera=197,
        clock_mhz=1500,
        runtime_version="v2-alpha-tpuv5-lite",
        shapes=_LITE_PLANES,
        link_gigabytes=400,
        one_host=8,
    ),
    Generation(
        name="v5p",
        prefix="v5p",
        device_kinds=("TPU v5", "TPU v5p"),
        counted=2,
        devices_per_chip=1,
        chip_memory=95,
        hbm_gigabytes=2765,
        chip_tera=459,
        clock_mhz=1750,
        runtime_version="v2-alpha-tpuv5",
        shapes=_LARGE_CUBES,
        link_gigabytes=1200,
    ),
    Generation(
        name="v6e",
        prefix="v6e",
        device_kinds=("TPU v6 lite", "TPU v6e"),
        counted=1,
        devices_per_chip=1,
        chip_memory=32,
        hbm_gigabytes=1638,
        chip_tera=918,
        clock_mhz=1750,
        runtime_version="v2-alpha-tpuv6e",
        shapes=_LITE_PLANES,
        link_gigabytes=800,
        one_host=8,
    ),
    Generation(
        name="tpu7x",
        prefix="tpu7x",
        device_kinds=("TPU7x",),
        counted=2,
        devices_per_chip=2,
        chip_memory=192,
        hbm_gigabytes=7380,
        chip_tera=2307,
        clock_mhz=2200,
        runtime_version="",
        shapes=_LARGE_CUBES,
        link_gigabytes=1200,
        gke_only=True,
    ),
)


def tpu_slice(accelerator: str) -> TpuSlice:
    """The slice that Google Cloud calls `accelerator`, such as v4-32.

    Raises:
      UserError: an unknown type, or a size that its generation does not have.
    """
    prefix, _, size = accelerator.strip().partition("-")
    generation = next((one for one in GENERATIONS if one.prefix == prefix), None)
    if generation is None:
        raise UserError(f"TPU type {accelerator!r} is not known{_suggestion(prefix, size)}")
    shape = generation.types.get(f"{prefix}-{size}")
    if shape is None:
        counts = "TensorCores" if generation.counted == 2 else "chips"
        raise UserError(
            f"TPU type {accelerator!r} does not exist: {prefix} comes as {', '.join(generation.types)} "
            f"(the number counts {counts})"
        )
    chips = _chips(shape)
    return TpuSlice(
        accelerator=f"{prefix}-{size}",
        generation=generation.name,
        chips=chips,
        hosts=1 if chips <= generation.one_host else chips // 4,
        devices=chips * generation.devices_per_chip,
        memory=int(generation.chip_memory * GIB) // generation.devices_per_chip,
        clock_hz=generation.clock_mhz * 1e6,
        peak_bf16=generation.peak_bf16,
        hbm_bytes=generation.hbm_gigabytes * 1e9 / generation.devices_per_chip,
        link_bytes=generation.link_gigabytes * 1e9 / 2,
        link_source=generation.link_source,
        runtime_version=generation.runtime_version,
        topology=f"{generation.name}:{shape}",
        gke_only=generation.gke_only,
    )


def parse_topology(text: str) -> tuple[int, TpuSlice]:
    """The number of slices and their type: 1 for 'v4-32', 2 for '2x v5litepod-256' or '2xv5litepod-256'.

    Raises:
      UserError: `text` has another form, or `tpu_slice` does not know the type.
    """
    match = re.fullmatch(r"\s*(?:(\d+)\s*x\s*)?([A-Za-z]\S*)\s*", text)
    if match is None:
        raise UserError(
            f"{text!r} is not a TPU type; give one as v4-32, or several slices as '2x v5litepod-256'"
        )
    slices = int(match[1] or 1)
    if not 1 <= slices <= MOST_SLICES:
        raise UserError(f"{text!r} asks for {slices} slices; give 1 to {MOST_SLICES}")
    return slices, tpu_slice(match[2])


def _chips(shape: str) -> int:
    """Number of chips of a shape: 16 for 2x2x4."""
    chips = 1
    for side in shape.split("x"):
        chips *= int(side)
    return chips


def _suggestion(prefix: str, size: str) -> str:
    """The end of the message on an unknown prefix: the most similar type, or else all types."""
    names = {name: one for one in GENERATIONS for name in (one.name, one.prefix)}
    names |= {"v5lite": names["v5e"], "v7x": names["tpu7x"]}
    near = names.get(prefix.lower()) or next(
        (names[name] for name in difflib.get_close_matches(prefix.lower(), names, n=1, cutoff=0.75)), None
    )
    if near is None:
        return f"; known types are {', '.join(f'{one.prefix}-N' for one in GENERATIONS)}, for example v4-32"
    likely = f"{near.prefix}-{size}"
    return f"; did you mean {likely if likely in near.types else f'{near.prefix}-N ({next(iter(near.types))}, ...)'}?"
