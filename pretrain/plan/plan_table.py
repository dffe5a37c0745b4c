"""A plan as people and launchers read it: text of 80 columns, a table of variants, and JSON.

Everything that comes from the TPU compiler is marked: by `~` in text, under `compiler_estimate` in JSON. It is a model
of the chip, not a measurement.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from base import formatting
from pretrain.plan import breakdown
from pretrain.plan.compiled_steps import Checked, StepPlan
from pretrain.plan.program import Program
from pretrain.reports.network_facts import network_facts

NOTE = "~ marks estimates of the TPU compiler: a model of the chip, not a measurement."
BILLION = 1e9


@dataclass(frozen=True)
class RunPlan:
    """A config on a pod, and what each of its phases takes there."""

    name: str
    """The recipe, or what a variant changes."""
    checked: Checked
    steps: tuple[StepPlan, ...]
    """One for each phase."""

    @property
    def fits(self) -> bool:
        """Whether every phase fits the memory of a device."""
        return not any(step.obstacle for step in self.steps)

    @property
    def seconds(self) -> float:
        """Least seconds of all the run's steps; NaN where it does not fit or their number is not known."""
        if not self.checked.steps_known:
            return math.nan
        return sum(step.whole_seconds * (step.phase.stop - step.phase.start) for step in self.steps)

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second at most, over all phases by their steps."""
        weights = [step.phase.stop - step.phase.start for step in self.steps]
        seconds = sum(step.whole_seconds * weight for step, weight in zip(self.steps, weights))
        return sum(step.tokens * weight for step, weight in zip(self.steps, weights)) / seconds

    def mfu(self, step: StepPlan, seconds: float) -> float:
        """Model FLOPs utilisation of a step that takes so long: its useful FLOPs at the peak rate over its time."""
        peak = self.checked.pod.devices * self.checked.pod.slice.peak_bf16
        return step.model_flops / (seconds * peak)


def report(plan: RunPlan, price: float) -> RenderableType:
    """The plan of one config, to be printed with rich.

    Args:
      plan: the plan.
      price: US dollars for an hour of a chip; 0 is not known.
    """
    pod, one = plan.checked.pod, plan.checked.pod.slice
    title = f"Plan of {plan.name} on {pod.name}"
    memory = formatting.size(one.memory)
    axes = ", ".join(f"{axis}={size}" for axis, size in plan.checked.mesh_sizes.items() if size > 1)
    facts = {
        "pod": f"{pod.extent}; JAX devices: {pod.devices} of {memory}",
        "mesh": axes or "one device",
        **network_facts(plan.checked.model, plan.checked.mesh_sizes),
    }
    parts: list[RenderableType] = [Text(title, style="bold"), Text(NOTE), "", _grid(facts)]
    for step in plan.steps:
        if len(plan.steps) > 1:
            steps = step.phase.stop - step.phase.start
            parts += ["", Text(f"phase {step.phase.number}: {steps:,} steps", style="bold")]
        parts.append(_grid(_step_facts(plan, step)))
    return Group(*parts, _grid(_run_facts(plan, price))) if plan.fits else Group(*parts)


def _step_facts(plan: RunPlan, step: StepPlan) -> dict[str, str]:
    phase, one = step.phase, plan.checked.pod.slice
    micro = f", in {phase.grad_accum} micro-batches" if phase.grad_accum > 1 else ""
    facts = {
        "batch": f"{phase.global_batch} rows x {phase.seq_len} tokens = {step.tokens:,} tokens a step{micro}",
        "arithmetic": f"{formatting.flops(step.model_flops)} a step count towards MFU; XLA counts "
        f"{formatting.flops(step.xla_flops)}, without recomputation",
    }
    state = f"params {formatting.size(step.params)}, optimizer {formatting.size(step.optimizer)}"
    if step.program is None:
        return facts | {"memory": f"does not fit a device: ~{step.obstacle} ({state})"}
    total, has = formatting.size(step.memory), formatting.size(one.memory)
    program = step.program
    return facts | {
        "memory": f"~{total} of {has} a device: fits ({state}, ~temporaries "
        f"{formatting.size(step.temporary or 0)})",
        "step": f"~{_milliseconds(step.seconds)}: {formatting.count(program.cycles)} cycles at "
        f"{one.clock_hz / 1e6:.0f} MHz",
        "left out": _left_out(program, one.clock_hz),
        "exchanges": _exchanges(plan, program),
        "whole step": f"at least ~{_milliseconds(step.whole_seconds)}, with what is left out and the exchanges",
        "speed": f"at most ~{formatting.count(step.tokens / step.whole_seconds)} tokens/s, MFU "
        f"~{formatting.percent(plan.mfu(step, step.whole_seconds))}; MFU by the cycles alone "
        f"~{formatting.percent(plan.mfu(step, step.seconds))}",
    }


def _left_out(program: Program, clock_hz: float) -> str:
    """The instructions without an estimate, and the least time that they take."""
    parts = [
        f"{name} ({one.count} times, {formatting.size(one.bytes)}"
        + f", {formatting.flops(one.flops)}" * bool(one.flops)
        + f", at least {_milliseconds(one.least / clock_hz)})"
        for name, one in program.unestimated.items()
    ]
    if program.open_loops:
        parts.append(f"all rounds but one of {program.open_loops} loops whose end depends on the data")
    if not program.least:
        return "; ".join(parts) or "nothing that the program names"
    return f"at least {_milliseconds(program.least / clock_hz)}: {'; '.join(parts) or 'small instructions'}"


def _exchanges(plan: RunPlan, program: Program) -> str:
    """Collectives of a step, each device's share, and the least time of those within a slice."""
    if not program.collectives:
        return "none"
    one = plan.checked.pod.slice
    lines = [
        f"{part.kind}{' between slices' * part.between_slices}: {part.count}, {formatting.size(part.bytes)}, "
        f"a device sends {formatting.size(part.sent)}" + ", asynchronous" * part.asynchronous
        for part in program.collectives
    ]
    for asynchronous, how in ((False, "not overlapped"), (True, "may overlap with the rest of the step")):
        if seconds := program.exchange_seconds(asynchronous=asynchronous):
            lines.append(f"at least {_milliseconds(seconds)} within a slice, {how}")
    lines.append(f"a chip sends {one.link_bytes / 1e9:.0f} GB/s at most ({one.link_source})")
    if any(part.between_slices for part in program.collectives):
        lines.append("between slices: no time, since no bandwidth is known")
    return "\n".join(lines)


def _run_facts(plan: RunPlan, price: float) -> dict[str, str]:
    """Time and cost of the whole run, or of a billion tokens where its length is not known."""
    chips = plan.checked.pod.chips
    if plan.checked.steps_known:
        seconds, steps = plan.seconds, plan.checked.phases[-1].stop
        tokens = sum(step.tokens * (step.phase.stop - step.phase.start) for step in plan.steps)
        what = f"{steps:,} steps, {formatting.count(tokens)} tokens"
        name = "whole run"
    else:
        seconds, what, name = (
            BILLION / plan.tokens_per_second,
            "an epoch's length is not known: give --tokens",
            "1B tokens",
        )
    text = (
        f"~{formatting.duration(seconds)} ({what}); evaluations, checkpoints and waiting for data come on top"
    )
    hours = seconds / 3600 * chips
    cost = f"~{hours:,.1f} chip-hours"
    cost += (
        f" x ${price:g} = ~${hours * price:,.2f}"
        if price
        else "; give --price (US dollars for an hour of a chip)"
    )
    return {name: text, "cost": cost}


def comparison(plans: Sequence[RunPlan], price: float) -> RenderableType:
    """Variants side by side, and the fastest that fits."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("variant", overflow="fold", ratio=1)
    for name in ("memory", "step", "tokens/s", "MFU"):
        table.add_column(f"~{name}", justify="right", no_wrap=True)
    table.add_column("run" if plans[0].checked.steps_known else "1B tok", justify="right", no_wrap=True)
    if price:
        table.add_column("cost", justify="right", no_wrap=True)
    best = fastest(plans)
    for plan in plans:
        style = "bold" if plan is best else ""
        if plan.fits:
            table.add_row(Text(plan.name), *_cells(plan, price), style=style)
        else:
            obstacle = next(step.obstacle for step in plan.steps if step.obstacle)
            table.add_row(Text(f"{plan.name}\n  does not fit: ~{obstacle}"), *["-"] * (5 + bool(price)))
    verdict = f"fastest that fits: {best.name}" if best else "none of them fits"
    pod = plans[0].checked.pod
    title = Text(f"Variants on {pod.name}, by the whole step at the least", style="bold")
    return Group(title, Text(NOTE), "", table, "", Text(verdict, style="bold"))


def breakdowns(plans: Sequence[RunPlan]) -> RenderableType:
    """Where the time of each step goes, by part of the network."""
    parts: list[RenderableType] = []
    for plan in plans:
        for step in plan.steps:
            rows = f", {step.phase.global_batch} rows" * (step.phase.of is not None)
            phase = f", phase {step.phase.number}{rows}" * (len(plan.steps) > 1)
            if step.program is not None:
                parts += ["", breakdown.table(plan.name + phase, step.program, plan.checked.pod.slice)]
    return Group(*parts)


def _cells(plan: RunPlan, price: float) -> list[str]:
    largest = max(step.memory for step in plan.steps)
    seconds = plan.seconds if plan.checked.steps_known else BILLION / plan.tokens_per_second
    steps = sum(step.phase.stop - step.phase.start for step in plan.steps)
    times = [step.whole_seconds * (step.phase.stop - step.phase.start) for step in plan.steps]
    mfu = sum(
        plan.mfu(step, step.whole_seconds) * time for step, time in zip(plan.steps, times, strict=True)
    ) / sum(times)
    cells = [
        formatting.size(largest),
        _milliseconds(sum(times) / steps),
        formatting.count(plan.tokens_per_second),
        formatting.percent(mfu),
        formatting.duration(seconds),
    ]
    return cells + ([f"${seconds / 3600 * plan.checked.pod.chips * price:,.0f}"] if price else [])


def fastest(plans: Sequence[RunPlan]) -> RunPlan | None:
    """The plan with the most estimated tokens a second among those that fit; None where none does."""
    fitting = [plan for plan in plans if plan.fits]
    return max(fitting, key=lambda plan: plan.tokens_per_second, default=None)


def as_json(plans: Sequence[RunPlan], price: float) -> dict[str, Any]:
    """The plans as a launcher reads them; a number that is not known is null."""
    best, pod = fastest(plans), plans[0].checked.pod
    return {
        "note": "numbers under compiler_estimate are a model of the TPU compiler, not measurements",
        "topology": pod.name,
        "chips": pod.chips,
        "hosts": pod.hosts,
        "devices": pod.devices,
        "device_memory": pod.slice.memory,
        "fits": best is not None,
        "fastest": best.name if best else None,
        "variants": [_variant(plan, price) for plan in plans],
    }


def _variant(plan: RunPlan, price: float) -> dict[str, Any]:
    hours = plan.seconds / 3600 * plan.checked.pod.chips
    known = plan.checked.steps_known
    return {
        "name": plan.name,
        "fits": plan.fits,
        "mesh": plan.checked.mesh_sizes,
        "steps": plan.checked.phases[-1].stop if known else None,
        "compiler_estimate": {
            "seconds": _finite(plan.seconds),
            "chip_hours": _finite(hours),
            "cost_usd": _finite(hours * price) if price else None,
            "tokens_per_second": _finite(plan.tokens_per_second),
        },
        "phases": [_phase(plan, step, known) for step in plan.steps],
    }


def _phase(plan: RunPlan, step: StepPlan, known: bool) -> dict[str, Any]:
    estimate: Mapping[str, Any] = {}
    if step.program is not None:
        estimate = {
            "memory": step.memory,
            "temporary": step.temporary,
            "cycles": step.program.cycles,
            "step_seconds": step.seconds,
            "mfu": plan.mfu(step, step.seconds),
            "least_cycles_without_estimate": step.program.least,
            "whole_step_seconds": step.whole_seconds,
            "whole_step_mfu": plan.mfu(step, step.whole_seconds),
            "collectives": [dataclasses.asdict(one) for one in step.program.collectives],
            "without_estimate": {
                name: dataclasses.asdict(one) for name, one in step.program.unestimated.items()
            },
            "breakdown": breakdown.as_json(step.program, plan.checked.pod.slice),
        }
    return {
        "steps": step.phase.stop - step.phase.start if known else None,
        "global_batch": step.phase.global_batch,
        "seq_len": step.phase.seq_len,
        "params": step.params,
        "optimizer": step.optimizer,
        "model_flops": step.model_flops,
        "xla_flops": step.xla_flops,
        "obstacle": step.obstacle or None,
        "compiler_estimate": estimate,
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2f} ms"


def _grid(facts: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=11)
    table.add_column(overflow="fold")
    for name, text in facts.items():
        table.add_row(Text(f" {name}"), Text(text))
    return table
