"""`python -m pretrain.plan`: mistakes that need no compiler, what is printed, and one real plan of a small pod."""

import dataclasses
import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from rich.console import Console

from base.errors import UserError
from base.tpu_types import GIB, parse_topology
from pretrain.config import MeshConfig, PretrainConfig
from pretrain.devices.mesh import make_mesh
from pretrain.objective.objective import full_rows
from pretrain.plan import __main__ as plan
from pretrain.plan import compiled_steps, plan_table
from pretrain.plan.__main__ import ENVIRONMENT, main, variants
from pretrain.plan.exchanges import Collective
from pretrain.plan.network_parts import Part
from pretrain.plan.program import Program, Unestimated, Work
from tests.finetune.tiny_task import write_model

DEBUG = "--config=configs/debug.py"
NORWEGIAN = "--config=configs/roberta_base_oscar_no.py"
RECIPES = [
    *(f"configs/{name}.py" for name in ("debug", "quickstart")),
    *(f"configs/roberta_{name}.py" for name in ("small", "base", "base_oscar_no", "large")),
]
LARGE = "--config=configs/roberta_large.py"
PRODUCTS = ("attention's products", "attention's output", "feed-forward up", "feed-forward down", "head")
PROGRAM = Program(
    parts={
        (Part.QUERY_KEY_VALUE, False): Work(cycles=1e6, flops=1e11, bytes=2**29),
        (Part.QUERY_KEY_VALUE, True): Work(cycles=0.5e6, bytes=2**28),
        (Part.DROPOUT, False): Work(least=3e5, bytes=2**22),
    },
    collectives=(
        Collective("all-gather", False, False, 24, 2**30, 2**29, 2e-3),
        Collective("all-reduce", False, True, 2, 2**30, 2**29, 5e-4),
        Collective("all-reduce", True, False, 1, 2**20, 2**19, None),
    ),
    unestimated={"rng-bit-generator": Unestimated(3, 0, 2**22, 3e5)},
)
"""1 ms of estimated cycles, 0.2 ms at the least of what has no estimate, 2 ms of exchanges that nothing overlaps."""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Put back what a plan sets for the compiler."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def checked(*argv: str, topology: str = "v5litepod-4", tokens: float = 0) -> compiled_steps.Checked:
    (line,) = variants(["plan", *argv], []).values()
    return compiled_steps.check(line.config, compiled_steps.Pod(*parse_topology(topology)), tokens)


def step_plan(one: compiled_steps.Checked, **changes: object) -> compiled_steps.StepPlan:
    """What the compiler might say of the first phase."""
    known = compiled_steps.StepPlan(
        phase=one.phases[0],
        params=GIB,
        optimizer=2 * GIB,
        temporary=3 * GIB,
        obstacle="",
        model_flops=3e11,
        xla_flops=4e11,
        program=PROGRAM,
        seconds=PROGRAM.cycles / one.pod.slice.clock_hz,
        whole_seconds=PROGRAM.whole_seconds(one.pod.slice.clock_hz),
    )
    return dataclasses.replace(known, **changes)  # type: ignore[arg-type]


def run_plan(name: str, one: compiled_steps.Checked, **changes: object) -> plan_table.RunPlan:
    return plan_table.RunPlan(name, one, (step_plan(one, **changes),))


def too_large(one: compiled_steps.Checked) -> compiled_steps.StepPlan:
    return step_plan(
        one,
        temporary=None,
        program=None,
        seconds=math.nan,
        whole_seconds=math.nan,
        obstacle="needs 20.00 GiB of 15.75 GiB",
    )


def printed(shown: object) -> str:
    console = Console(width=80, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([NORWEGIAN, "--topology=v3-9"], "TPU type 'v3-9' does not exist"),
        ([NORWEGIAN, "--topology=v5-8"], "TPU type 'v5-8' is not known"),
        ([NORWEGIAN], "no --topology given: v3-8"),
        (["--topology=v3-8"], "no --config given"),
        ([NORWEGIAN, "--topology=v3-8", "--config.mesh.tensor=3"], "config.mesh.tensor=3 does not divide"),
        ([NORWEGIAN, "--topology=v3-8", "--config.mesh.fsdp=4"], "does not make the number of devices, 8"),
        ([NORWEGIAN, "--topology=v3-8", "--config.global_batch=1020"], "should be a multiple of 8"),
        ([NORWEGIAN, "--topology=v3-8", "--config.grad_accum=3"], "should be a multiple of 24"),
        ([NORWEGIAN, "--topology=v3-8", "--config.seq_len=1024"], "config.seq_len=1024"),
        ([NORWEGIAN, "--topology=v3-8", "--config.model.attention=cudnn"], "not on tpu"),
        ([NORWEGIAN, "--topology=v3-8", "--config.model.widht=3"], "widht"),
        ([NORWEGIAN, "--topology=v3-8", "--tokens=-1"], "--tokens=-1 should be 0"),
        ([NORWEGIAN, "--topology=v3-8", "--price=cheap"], "--price='cheap' should be a number"),
        ([NORWEGIAN, "--topology=v3-8", "--json=plan.json"], "--json has no effect: --check makes no plan"),
        ([NORWEGIAN, "--topology=v3-8", "--price=3"], "--price has no effect: --check makes no plan"),
        ([NORWEGIAN, "--topology=v3-8", "--breakdown"], "--breakdown has no effect: --check makes no plan"),
        (
            [LARGE, "--topology=v4-32", "--tokens=1e9"],
            "--tokens has no effect: it gives the length of an epoch",
        ),
        ([LARGE, "--topology=v5litepod-256"], "config.data.streams=64 should be a multiple of the 256"),
        ([LARGE, "--topology=2x v4-32"], "config.mesh.replica=1 should be 2, the number of slices"),
        ([NORWEGIAN, "--topology=v3-8", "--compare=mesh.fsdp"], "should be FIELD=VALUE,FIELD=VALUE"),
        ([NORWEGIAN, "--topology=v3-8", "--compare=mesh.fdsp=8"], "--compare=mesh.fdsp=8: .*fsdp"),
        (
            [NORWEGIAN, "--topology=v3-8", "--compare=mesh.data=8", "--compare=mesh.tensor=3"],
            "--compare=mesh.tensor=3: config.mesh.tensor=3 does not divide",
        ),
    ],
)
def test_a_check_refuses_what_cannot_run(arguments, message):
    with pytest.raises(UserError, match=message) as refused:
        main(["plan", "--check", *arguments])
    assert "\n" not in str(refused.value)


def test_a_check_is_one_line_and_needs_no_compiler(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert main(["plan", NORWEGIAN, "--topology=v3-8", "--check"]) == 0
    assert capsys.readouterr().out == (
        "configs/roberta_base_oscar_no.py: can run on v3-8 (4 chips on 1 host), memory not checked\n"
    )
    assert main(["plan", LARGE, "--topology=2xv4-32", "--check", "--config.mesh.replica=2"]) == 0


@pytest.mark.parametrize("topology", ["v6e-8", "v5p-16"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_passes_the_check_of_newer_pods(recipe, topology):
    assert main(["plan", f"--config={recipe}", f"--topology={topology}", "--check"]) == 0


def test_without_the_compiler_a_plan_names_the_extra(monkeypatch):
    monkeypatch.setattr(compiled_steps.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -c constraints.txt -e .\[plan\]"):
        main(["plan", NORWEGIAN, "--topology=v3-8"])


def test_a_compiler_that_crashes_is_one_line(monkeypatch):
    started = []

    def crash(command, env):
        started.append((command[1:], env[plan.INSIDE]))
        return subprocess.CompletedProcess(command, -signal.SIGSEGV)

    monkeypatch.setattr(subprocess, "run", crash)
    with pytest.raises(UserError, match=r"libtpu\) was ended by SIGSEGV on this step") as error:
        plan.guarded(["plan", DEBUG, "--topology=v3-8"])
    assert "\n" not in str(error.value)
    assert started == [(["-m", "pretrain.plan", DEBUG, "--topology=v3-8"], "1")]


def test_a_plan_compiles_as_a_run_on_a_tpu_does(monkeypatch):
    def noted(lowered: object, platform: str, is_rotary: bool) -> None:
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {lowered} for {platform}, {is_rotary}")

    monkeypatch.setattr(compiled_steps, "compile_step", noted)
    monkeypatch.setattr(compiled_steps, "_xla_flops", lambda *given: 0.0)
    monkeypatch.setattr(compiled_steps, "_obstacle", lambda message, slice: message)
    nothing = SimpleNamespace(params={}, opt_state={})
    monkeypatch.setattr(compiled_steps, "_lowered", lambda *given: (nothing, "the step"))
    found = checked(DEBUG)
    plan = compiled_steps.plan_step(found, found.phases[0], None)  # type: ignore[arg-type]
    assert plan.obstacle == "RESOURCE_EXHAUSTED: the step for tpu, False"


def test_a_run_that_does_not_fit_has_a_status_of_its_own(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compiled_steps, "require_compiler", lambda: None)
    monkeypatch.setattr(compiled_steps, "plan_steps", lambda one: (too_large(one),))
    out = tmp_path / "plan.json"
    assert main(["plan", DEBUG, "--topology=v5litepod-4", f"--json={out}"]) == plan.DOES_NOT_FIT
    assert "does not fit a device: ~needs 20.00 GiB of 15.75 GiB" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["fits"], found["fastest"]) == (False, None)
    assert found["variants"][0]["phases"][0]["obstacle"] == "needs 20.00 GiB of 15.75 GiB"
    assert found["variants"][0]["compiler_estimate"]["seconds"] is None


def test_a_variant_of_a_network_that_a_checkpoint_gives_is_refused(tmp_path):
    model = write_model(tmp_path)
    start = [DEBUG, f"--config.init_from={model}", "--config.seq_len=16", "--config.steps=20"]
    command = ["plan", "--check", "--topology=v5litepod-4", *start, "--compare=model.hidden_size=4096"]
    with pytest.raises(
        UserError, match=r"--compare=.*config\.model\.hidden_size=4096 has no effect: .*init_from"
    ):
        main(command)


def test_variants_are_the_recipe_with_fields_changed():
    found = variants(["plan", DEBUG, "--config.steps=7"], ["mesh.data=2,model.remat=true", "config.steps=9"])
    assert list(found) == ["as given", "mesh.data=2,model.remat=true", "config.steps=9"]
    given, remat, longer = (line.config for line in found.values())
    assert (given.steps, remat.steps, longer.steps) == (7, 7, 9)
    assert (remat.mesh.data, remat.model.remat, given.model.remat) == (2, "full", "none")
    assert isinstance(longer, PretrainConfig)


@pytest.mark.parametrize(("generator", "is_hardware"), [("auto", True), ("threefry", False)])
def test_dropout_is_that_of_a_tpu(generator, is_hardware):
    one = checked(DEBUG, f"--config.dropout_rng={generator}")
    lowered = compiled_steps._lowered(
        one, one.phases[0], make_mesh(MeshConfig()), one.model, one.objectives[0]
    )[1]
    assert ("rng_bit_generator" in lowered.as_text()) == is_hardware


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_xlas_count_of_flops_leaves_no_layer_micro_batch_or_part_of_a_row_out(objective):
    changes = ["--config.model.num_hidden_layers=3", "--config.grad_accum=4", "--config.seq_len=256"]
    one = checked(NORWEGIAN, *changes, f"--config.objective.name={objective}", topology="v3-8")
    rows, length = one.phases[0].global_batch, one.phases[0].seq_len
    work = full_rows(one.objectives[0], rows, length)
    ours = compiled_steps.StepWork(one.encoder).flops(**{**work, "attended": rows * length**2})
    assert ours < compiled_steps._xla_flops(one, one.phases[0]) < 1.02 * ours


def test_xlas_count_of_flops_has_windows_by_blocks_where_they_run_so():
    """Blocks of W queries have 3 W keys each, where 2 W + 1 are seen: the only difference, at the rows' ends too."""
    fields = (
        "model.family=modernbert",
        "model.num_hidden_layers=3",
        "model.max_position_embeddings=1024",
        "model.global_attn_every_n_layers=2",
    )
    network = [f"--config.{field}" for field in (*fields, "seq_len=1024")]
    one = checked(NORWEGIAN, *network, "--config.global_batch=64", topology="v3-8")
    assert one.encoder.windows == (0, 64, 0)
    rows, length = 64, 1024
    ours = compiled_steps.StepWork(one.encoder).flops(
        **{
            **full_rows(one.objectives[0], rows, length),
            "attended": rows * length * (2 * length + 192) / 3,
        }
    )
    assert ours < compiled_steps._xla_flops(one, one.phases[0]) < 1.02 * ours


def test_the_length_of_a_run_by_epochs_follows_from_the_corpus():
    assert not checked(NORWEGIAN, topology="v3-8").steps_known
    known = checked(NORWEGIAN, topology="v3-8", tokens=1e9)
    assert known.steps_known
    assert known.phases[-1].stop == math.ceil(18 * 1e9 / (1024 * 128))


def test_a_report_says_what_is_estimated_and_fits_80_columns():
    one = checked(DEBUG)
    text = printed(plan_table.report(run_plan("configs/debug.py", one), price=1.2))
    assert max(map(len, text.splitlines())) <= 80
    assert "~ marks estimates of the TPU compiler: a model of the chip, not a measurement." in text
    words = " ".join(text.split())
    assert "~6.0 GiB of 16.0 GiB a device: fits" in words
    assert "~1.00 ms: 1.5M cycles at 1500 MHz" in words
    assert "at least 0.20 ms: rng-bit-generator (3 times, 4.0 MiB, at least 0.20 ms)" in words
    assert "all-gather: 24, 1.0 GiB, a device sends 512.0 MiB all-reduce: 2" in words
    assert "all-reduce: 2, 1.0 GiB, a device sends 512.0 MiB, asynchronous" in words
    assert "all-reduce between slices: 1, 1.0 MiB, a device sends 512.0 KiB" in words
    assert "at least 2.00 ms within a slice, not overlapped" in words
    assert "at least 0.50 ms within a slice, may overlap with the rest of the step" in words
    assert "a chip sends 200 GB/s at most (Google's figure)" in words
    assert "between slices: no time" in words
    assert "whole step at least ~3.20 ms" in words
    # 3e11 FLOP in 3.2 ms and in 1 ms, on 4 chips of 197 TFLOP/s
    assert "MFU ~11.9%; MFU by the cycles alone ~38.1%" in words
    assert "whole run" in words and "x $1.2 =" in words
    assert "attention xla" in words and "not split" not in words


def test_a_report_says_what_the_mesh_cannot_split():
    one = checked(DEBUG, "--config.mesh.tensor=8", "--config.mesh.data=1", topology="v5litepod-8")
    words = " ".join(printed(plan_table.report(run_plan("x", one), price=0)).split())
    assert (
        "not split heads (2) is whole on every device, since config.mesh.tensor=8 does not divide it" in words
    )


def test_time_and_cost_are_those_of_all_steps():
    one = checked(DEBUG, "--config.steps=3600000")
    plan_of_run = run_plan("configs/debug.py", one)
    assert plan_of_run.seconds == pytest.approx(3600 * 3.2)
    estimate = plan_table.as_json([plan_of_run], 1.2)["variants"][0]["compiler_estimate"]
    assert estimate["chip_hours"] == pytest.approx(4 * 3.2)
    assert estimate["cost_usd"] == pytest.approx(4.8 * 3.2)


def test_a_run_of_unknown_length_is_told_by_a_billion_tokens():
    one = checked(NORWEGIAN, topology="v3-8")
    text = " ".join(printed(plan_table.report(run_plan("x", one), price=0)).split())
    assert "1B tokens" in text and "give --tokens" in text and "give --price" in text
    assert math.isnan(run_plan("x", one).seconds)


def test_a_comparison_names_the_fastest_that_fits():
    one = checked(DEBUG)
    plans = [
        run_plan("as given", one),
        plan_table.RunPlan("mesh.fsdp=4,model.remat=false", one, (too_large(one),)),
        run_plan("model.remat=true", one, seconds=2e-3, whole_seconds=2.5e-3),
    ]
    text = printed(plan_table.comparison(plans, price=1.0))
    assert max(map(len, text.splitlines())) <= 80
    assert "does not fit: ~needs 20.00 GiB of 15.75 GiB" in " ".join(text.split())
    assert text.splitlines()[-1].strip() == "fastest that fits: model.remat=true"
    assert plan_table.as_json(plans, 0)["fastest"] == "model.remat=true"
    nothing = printed(plan_table.comparison(plans[1:2], price=0))
    assert nothing.splitlines()[-1].strip() == "none of them fits"
    awkward = [run_plan("data.path=[/x]", one), plan_table.RunPlan("data.path=[y]", one, (too_large(one),))]
    text = printed(plan_table.comparison(awkward, price=0))
    assert "data.path=[/x]" in text and "data.path=[y]" in text


def test_a_breakdown_sums_to_the_step_and_fits_80_columns(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compiled_steps, "require_compiler", lambda: None)
    monkeypatch.setattr(compiled_steps, "plan_steps", lambda one: (step_plan(one),))
    out = tmp_path / "plan.json"
    assert main(["plan", DEBUG, "--topology=v5litepod-4", "--breakdown", f"--json={out}"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["query,", "key,", "value", "1.0", "0.5", "-", "0.1", "0.8", "0.8", "1.5", "1.5"] in lines
    assert ["exchanges", "-", "-", "3.0", "-", "-", "-", "-", "3.8"] in lines
    assert ["the", "step", "1.0", "0.5", "3.3", "0.1", "0.8", "0.8", "1.5", "5.2"] in lines
    (phase,) = json.loads(out.read_text())["variants"][0]["phases"]
    estimate = phase["compiler_estimate"]
    assert sum(part["cycles"] for part in estimate["breakdown"]) == estimate["cycles"] == 1.5e6
    assert [(part["part"], part["pass"]) for part in estimate["breakdown"]] == [
        ("dropout masks", "forward"),
        ("query, key, value", "forward"),
        ("query, key, value", "backward"),
    ]


@pytest.mark.parametrize(
    ("message", "obstacle"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
            "Used 20.30G of 15.48G hbm. Exceeded hbm capacity by 4.83G.",
            "needs 20.30 GiB of 15.48 GiB",
        ),
        (
            "RESOURCE_EXHAUSTED: the combined size of temporaries (256.00G) exceeds available HBM (30.75G).",
            "needs 256.00 GiB of 30.75 GiB for temporaries alone",
        ),
        ("RESOURCE_EXHAUSTED: out of memory", "needs more than the 16 GiB of a device"),
    ],
)
def test_what_does_not_fit_is_said_in_gib(message, obstacle):
    assert compiled_steps._obstacle(message, parse_topology("v3-8")[1]) == obstacle


@pytest.mark.slow
def test_a_real_plan_of_a_small_pod(tmp_path: Path):
    pytest.importorskip("libtpu")
    out = tmp_path / "plan.json"
    command = [sys.executable, "-m", "pretrain.plan", DEBUG, "--topology=v5litepod-4", f"--json={out}"]
    compared = ["--config.mesh.data=1", "--config.mesh.fsdp=-1", "--config.steps=500"]
    done = subprocess.run([*command, *compared], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found = json.loads(out.read_text())
    assert (found["topology"], found["chips"], found["devices"], found["fits"]) == ("v5litepod-4", 4, 4, True)
    (variant,) = found["variants"]
    assert (variant["mesh"]["fsdp"], variant["steps"]) == (4, 500)
    (phase,) = variant["phases"]
    estimate = phase["compiler_estimate"]
    assert phase["optimizer"] == pytest.approx(2 * phase["params"], rel=0.01)
    assert phase["params"] < estimate["memory"] < found["device_memory"]
    assert 0 < estimate["mfu"] < 1
    assert estimate["step_seconds"] == pytest.approx(estimate["cycles"] / 1.5e9)
    assert sum(part["cycles"] for part in estimate["breakdown"]) == pytest.approx(estimate["cycles"])
    products = {part["part"] for part in estimate["breakdown"] if part["flops"]}
    assert products == {"query, key, value", *PRODUCTS}
    assert estimate["whole_step_seconds"] > estimate["step_seconds"]
    kinds = {one["kind"] for one in estimate["collectives"]}
    assert "all-gather" in kinds and kinds & {"all-reduce", "reduce-scatter"}
    assert "~" in done.stdout and "not a measurement" in done.stdout
