"""`python -m pretrain.plan --config=... --topology=v3-8`: what a run takes on a TPU pod, before it is rented.

Compiles the train step for the pod on a machine without a TPU. `--check` does what needs no compiler. The exit status
is 0 where the run fits, 2 where it cannot work, 3 where it does not fit the memory of a device.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from absl import flags
from rich.text import Text

from base.command_line import CommandLine, read, run
from base.errors import UserError
from base.set_fields import say
from base.storage import write_out
from base.tpu_types import parse_topology
from pretrain.config import PretrainConfig
from pretrain.unused_fields import unused_fields

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # nothing runs on a device, but jax needs one
    "TPU_SKIP_MDS_QUERY": "1",  # libtpu asks Google Cloud's metadata server otherwise
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # another plan may be compiled at the same time
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
DOES_NOT_FIT = 3
INSIDE = "UNMASK_PLAN_INSIDE"
"""Set in the process that compiles."""


def _flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "topology", "", "the pod: v3-8, v4-32, v5litepod-256, '2x v5litepod-256', ...", flag_values=values
    )
    flags.DEFINE_bool("check", False, "only what needs no compiler: config, mesh, batch", flag_values=values)
    flags.DEFINE_float("tokens", 0.0, "tokens of the corpus, where config.epochs is set", flag_values=values)
    flags.DEFINE_float("price", 0.0, "US dollars for an hour of a chip", flag_values=values)
    flags.DEFINE_multi_string(
        "compare",
        [],
        "a variant beside the config: FIELD=VALUE,FIELD=VALUE without 'config.'; may be given several times",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "breakdown",
        False,
        "where the step goes, by part of the network, beside the roofline",
        flag_values=values,
    )
    flags.DEFINE_string("json", "", "also write the plan to this file", flag_values=values)


def variants(argv: Sequence[str], compared: Sequence[str]) -> dict[str, CommandLine[PretrainConfig]]:
    """The parsed command line, under the recipe's name or "as given", and the parsed command line of each variant.

    Args:
      argv: the command line.
      compared: variants as FIELD=VALUE,FIELD=VALUE.

    Raises:
      UserError: a field that does not exist, or a value that is not of its type; the variant is named.
    """
    recipe = next(
        (part.partition("=")[2] for part in argv if part.lstrip("-").startswith("config=")), "the config"
    )
    found = {"as given" if compared else recipe: read(PretrainConfig, argv, _flags, unused=unused_fields)}
    for variant in compared:
        changes = [part.strip() for part in variant.split(",") if part.strip()]
        wrong = next((part for part in changes if "=" not in part), None)
        if wrong or not changes:
            raise UserError(
                f"--compare={variant!r} should be FIELD=VALUE,FIELD=VALUE, config.mesh.data=4,config.mesh.fsdp=2 say"
            )
        overrides = [f"--config.{part.removeprefix('config.')}" for part in changes]
        try:
            found[variant] = read(PretrainConfig, [*argv, *overrides], _flags, unused=unused_fields)
        except UserError as error:
            raise UserError(f"--compare={variant}: {error}") from error
    return found


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    os.environ.update(ENVIRONMENT)  # before anything imports jax
    values = read(PretrainConfig, argv, _flags).values
    if not values.topology:
        raise UserError("no --topology given: v3-8, v4-32, v5litepod-256 or '2x v5litepod-256', say")
    for name in ("tokens", "price"):
        if (values[name].value or 0) < 0:
            raise UserError(f"--{name}={values[name].value:g} should be 0 (not known) or more")
    for name in ("json", "price", "breakdown"):
        if values.check and values[name].value:
            raise UserError(f"--{name} has no effect: --check makes no plan; leave one of the two out")
    found = variants(argv, values.compare)
    if values.tokens and all(line.config.epochs is None for line in found.values()):
        raise UserError(
            "--tokens has no effect: it gives the length of an epoch, but config.epochs is not set; leave it out"
        )
    from base import terminal
    from pretrain.plan import compiled_steps, plan_table

    pod = compiled_steps.Pod(*parse_topology(values.topology))
    checked = {}
    for name, line in found.items():
        for note in line.given.notes:
            say(note)
        try:
            checked[name] = compiled_steps.check(line.config, pod, values.tokens, line.given)
        except UserError as error:
            raise UserError(f"--compare={name}: {error}" if name in values.compare else str(error)) from error
    if values.check:
        terminal.say(f"{', '.join(checked)}: can run on {pod.name} ({pod.extent}), memory not checked")
        return 0
    compiled_steps.require_compiler()
    console = terminal.console()
    plans = []
    for name, one in checked.items():
        with console.status(Text(f"compiling {name} for {pod.name}")):
            plans.append(plan_table.RunPlan(name, one, compiled_steps.plan_steps(one)))
    if values.json:
        text = json.dumps(plan_table.as_json(plans, values.price), indent=2) + "\n"
        write_out(values.json, text, "--json")
    for plan in plans[:1] if not values.compare else ():
        console.print(plan_table.report(plan, values.price))
    if values.compare:
        console.print(plan_table.comparison(plans, values.price))
    if values.breakdown:
        console.print(plan_table.breakdowns(plans))
    return 0 if any(plan.fits for plan in plans) else DOES_NOT_FIT


def guarded(argv: Sequence[str]) -> int:
    """Run `main` in a process of its own, so that a crash of the compiler is a message.

    Raises:
      UserError: the process was ended by a signal.
    """
    if os.environ.get(INSIDE):
        return main(argv)
    command = [sys.executable, "-m", "pretrain.plan", *argv[1:]]
    status = subprocess.run(command, env={**os.environ, INSIDE: "1"}).returncode
    if status < 0:
        name = signal.Signals(-status).name
        raise UserError(
            f"the TPU compiler (libtpu) was ended by {name} on this step: it has crashed, or this machine has too "
            "little memory; try another mesh, topology or libtpu; --check needs no compiler"
        )
    return status


if __name__ == "__main__":
    run(guarded)
