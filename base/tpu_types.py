"""The TPU types of Google Cloud: how many chips, hosts and JAX devices each name means, and what a device can do.

The one table of these figures: launchers take machines from it, `pretrain.plan` and `pretrain.devices.hardware` what
they can do. Beware how names count: `v3-8`, `v4-8` and `v5p-8` have 8 TensorCores on 4 chips, `v5litepod-8` and
`v6e-8` have 8 chips. JAX sees each TensorCore of v2, v3 and 7x as a device; the two of a v4 or v5p chip work as one
(megacore).
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from base.errors import UserError

GIB = 1024**3
TERA = 1e12
MOST_SLICES = 256
"""More are refused as a slip of the pen: the largest published Multislice run joined 199 slices."""


@dataclass(frozen=True)
class TpuSlice:
    """One slice: chips that reach each other over their own links, and what a JAX device of it has."""

    accelerator: str
    """Its type as gcloud names it: 'v4-32'."""
    generation: str
    """'v2', 'v3', 'v4', 'v5e', 'v5p', 'v6e' or 'tpu7x'."""
    chips: int
    hosts: int
    """Machines (TPU VMs); one process of a run each."""
    devices: int
    """JAX devices, of all hosts."""
    memory: int
    """Bytes of HBM of one JAX device."""
    clock_hz: float
    """Clock of a TensorCore."""
    peak_bf16: float
    """Peak rate of bfloat16 products of one JAX device, FLOP/s."""
    link_bytes: float
    """Bytes a second over all links of a chip within the slice, both directions; 0 where Google gives no figure."""
    runtime_version: str
    """Image of the TPU VMs, for gcloud's --version; empty where there is none (GKE only)."""
    topology: str
    """libtpu's name of the generation and the chips along each axis: 'v4:2x2x4'."""
    gke_only: bool
    """Whether it can be had from Kubernetes Engine only, not as TPU VMs."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What the slices of one generation have in common."""

    name: str
    """libtpu's name: 'v5e'."""
    prefix: str
    """What gcloud's types start with: 'v5litepod'."""
    device_kinds: tuple[str, ...]
    """Its names in `jax.Device.device_kind`."""
    counted: int
    """What the number in a type counts, for each chip: 2 TensorCores, or 1 chip."""
    devices_per_chip: int
    chip_memory: float
    """GiB of HBM of a chip."""
    chip_tera: float
    """Peak rate of bfloat16 products of a chip, TFLOP/s."""
    clock_mhz: float
    runtime_version: str
    shapes: tuple[str, ...]
    """Chips along each axis, for all sizes that are offered, smallest first."""
    link_gigabytes: float = 0
    """GB/s over all links of a chip, both directions; 0 where Google gives no figure."""
    one_host: int = 4
    """Most chips of a slice of one host; larger slices have 4 chips a host."""
    gke_only: bool = False

    @property
    def peak_bf16(self) -> float:
        """Peak rate of bfloat16 products of one JAX device, FLOP/s."""
        return self.chip_tera * TERA / self.devices_per_chip

    @property
    def types(self) -> Mapping[str, str]:
        """Every type, as gcloud names it, and its shape."""
        return {f"{self.prefix}-{self.counted * _chips(shape)}": shape for shape in self.shapes}


# Memory, peak, links and sizes are those of Google's pages "TPU v2" .. "TPU v6e" and "TPU7x (Ironwood)" at
# cloud.google.com/tpu/docs and, for sizes, of GKE's "Plan TPUs". Runtime versions: "TPU software versions".
# Clocks: v2 and v3 from Norrie et al. 2021, "The Design Process for Google's Training Chips: TPUv2 and TPUv3", v4 from
# Jouppi et al. 2023, "TPU v4: An Optically Reconfigurable Supercomputer"; the others follow from the pages' peak and
# matrix units, peak = 2 x units x side^2 x clock, as the first three do too: v5e 4 units of 128 x 128, v5p 2 x 4 of
# 128 x 128, v6e 4 of 256 x 256, 7x 2 x 4 of 256 x 256 (libtpu's compiler also issues more products a cycle on these
# two than the 2 units that some pages name could do).
_PLANES = ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32")
_LITE_PLANES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SMALL_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")
_CUBES = (*_SMALL_CUBES, "4x4x8", "4x8x8", "8x8x8", "8x8x12", "8x8x16", "8x16x16")
_LARGE_CUBES = (*_CUBES, "16x16x16", "16x16x24")
_UBUNTU = "tpu-ubuntu2204-base"
GENERATIONS = (
    Generation(
        name="v2",
        prefix="v2",
        device_kinds=("TPU v2",),
        counted=2,
        devices_per_chip=2,
        chip_memory=16,
        chip_tera=45,
        clock_mhz=700,
        runtime_version=_UBUNTU,
        shapes=_PLANES[:6],
    ),
    Generation(
        name="v3",
        prefix="v3",
        device_kinds=("TPU v3",),
        counted=2,
        devices_per_chip=2,
        chip_memory=32,
        chip_tera=123,
        clock_mhz=940,
        runtime_version=_UBUNTU,
        shapes=_PLANES,
    ),
    Generation(
        name="v4",
        prefix="v4",
        device_kinds=("TPU v4",),
        counted=2,
        devices_per_chip=1,
        chip_memory=32,
        chip_tera=275,
        clock_mhz=1050,
        runtime_version=_UBUNTU,
        shapes=_CUBES,
    ),
    Generation(
        name="v5e",
        prefix="v5litepod",
        device_kinds=("TPU v5 lite", "TPU v5e"),
        counted=1,
        devices_per_chip=1,
        chip_memory=16,
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
        chip_tera=2307,
        clock_mhz=2200,
        runtime_version="",
        shapes=_LARGE_CUBES,
        link_gigabytes=1200,
        gke_only=True,
    ),
)


def tpu_slice(accelerator: str) -> TpuSlice:
    """The slice that Google Cloud calls `accelerator`, v4-32 say.

    Raises:
      UserError: an unknown type, or a size that its generation does not come in.
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
        link_bytes=generation.link_gigabytes * 1e9,
        runtime_version=generation.runtime_version,
        topology=f"{generation.name}:{shape}",
        gke_only=generation.gke_only,
    )


def parse_topology(text: str) -> tuple[int, TpuSlice]:
    """How many slices, and which: 'v4-32' is one, '2x v5litepod-256' or '2xv5litepod-256' are two.

    Raises:
      UserError: not of that form, or as for `tpu_slice`.
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
    """Chips of a shape: 2x2x4 has 16."""
    chips = 1
    for side in shape.split("x"):
        chips *= int(side)
    return chips


def _suggestion(prefix: str, size: str) -> str:
    """The end of the message on an unknown prefix: what it probably is, or else what there is."""
    names = {name: one for one in GENERATIONS for name in (one.name, one.prefix)}
    names |= {"v5lite": names["v5e"], "v7x": names["tpu7x"]}
    near = names.get(prefix.lower()) or next(
        (names[name] for name in difflib.get_close_matches(prefix.lower(), names, n=1, cutoff=0.75)), None
    )
    if near is None:
        return f"; there are {', '.join(f'{one.prefix}-N' for one in GENERATIONS)}, v4-32 say"
    likely = f"{near.prefix}-{size}"
    return f"; did you mean {likely if likely in near.types else f'{near.prefix}-N ({next(iter(near.types))}, ...)'}?"
