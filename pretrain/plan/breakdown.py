"""Where a step's time goes, by part of the network, beside the roofline: as a table, and for JSON.

The roofline is what the hardware allows at best: FLOPs at the peak rate of the matrix units, bytes at the rate of HBM.
The larger of both bounds the time of a part. The compiler's model may be wrong where it is far above.
"""

from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from base.tpu_types import TERA, TpuSlice
from pretrain.plan.network_parts import Part
from pretrain.plan.program import Program, Work

COLUMNS = ("fwd", "bwd", "left out", "TFLOP", "GiB", "peak", "HBM", "bound")


@dataclass(frozen=True)
class Roofline:
    """The least cycles of some work on a device."""

    peak: float
    """Its FLOPs at the peak rate."""
    hbm: float
    """Its bytes at the rate of HBM."""

    @property
    def bound(self) -> float:
        """The larger of the two."""
        return max(self.peak, self.hbm)


def roofline(work: Work, chip: TpuSlice) -> Roofline:
    """The least cycles of some work on a device of a slice."""
    return Roofline(work.flops / chip.peak_bf16 * chip.clock_hz, work.bytes / chip.hbm_bytes * chip.clock_hz)


def table(name: str, program: Program, chip: TpuSlice) -> RenderableType:
    """The breakdown of a step, to be printed with rich: 80 columns.

    Args:
      name: of the config.
      program: its step.
      chip: the slice that it is compiled for.
    """
    unit, letter = (1e6, "M") if program.cycles >= 1e6 else (1e3, "k")
    rows = Table(box=None, padding=(0, 0, 0, 1), header_style="bold")
    rows.add_column(f"~{letter} cycles", no_wrap=True)
    for column in COLUMNS:
        rows.add_column(column, justify="right", no_wrap=True)
    lines = [_line(part, program, chip) for part in Part]
    lines = [line for line in lines if any(line[1:])]
    total = ("the step", *(sum(values) for values in zip(*(line[1:] for line in lines))))
    for line in [*lines, total]:
        part, forward, backward, left_out, flops, moved, *cycles = line
        numbers = [
            *(number / unit for number in (forward, backward, left_out)),
            flops / TERA,
            moved / 2**30,
            *(number / unit for number in cycles),
        ]
        cells = [f"{number:.1f}" if number else "-" for number in numbers]
        rows.add_row(Text(part), *cells, style="bold" if line is total else "")
    legend = (
        f"fwd, bwd: the compiler's estimate. left out: the least cycles of what has no estimate. peak: the FLOPs of "
        f"matrix products at {chip.peak_bf16 / TERA:.0f} TFLOP/s. HBM: the bytes at {chip.hbm_bytes / 1e9:.0f} GB/s. "
        "bound: the larger."
    )
    title = Text(f"{name}: the step by part of the network, on one device", style="bold")
    return Group(title, Text(legend), "", rows)


def _line(part: Part, program: Program, chip: TpuSlice) -> tuple[Any, ...]:
    """A part's name, cycles forward, backward and left out, FLOPs, bytes, and cycles by peak, by HBM and by both."""
    total = Work()
    for work in (both := [program.parts.get((part, backward), Work()) for backward in (False, True)]):
        total.add(work)
    best = roofline(total, chip)
    cycles = (work.cycles for work in both)
    left_out, bound = total.least, best.bound
    if part is Part.EXCHANGES:  # also fusions of an exchange and arithmetic, which have cycles
        alone, overlapped = (
            chip.clock_hz * program.exchange_seconds(asynchronous=which) for which in (False, True)
        )
        left_out, bound = left_out + alone, max(bound, alone + overlapped)
    return (part, *cycles, left_out, total.flops, total.bytes, best.peak, best.hbm, bound)


def as_json(program: Program, chip: TpuSlice) -> list[dict[str, Any]]:
    """The same by part and pass. Cycles are the compiler's, or bounds of them; exchanges are in a list of their own."""
    found = []
    for (part, backward), work in sorted(program.parts.items()):
        best = roofline(work, chip)
        found.append(
            {
                "part": str(part),
                "pass": "backward" if backward else "forward",
                "cycles": work.cycles,
                "least_cycles_without_estimate": work.least,
                "flops": work.flops,
                "hbm_bytes": work.bytes,
                "peak_cycles": best.peak,
                "hbm_cycles": best.hbm,
                "bound_cycles": best.bound,
            }
        )
    return found
