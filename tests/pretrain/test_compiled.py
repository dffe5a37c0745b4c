"""What is read off a compiled program: cycles with loops multiplied out, exchanges, and what has no estimate."""

import pytest

from base.tpu_types import tpu_slice
from pretrain.plan.exchanges import Collective
from pretrain.plan.program import Program, Unestimated, read_program

CHIP = tpu_slice("v5litepod-8")
RATE = CHIP.link_bytes
ESTIMATE = 'backend_config={"window_config":{},"estimated_cycles":"%d"}'


def read(text: str, accelerator: str = "v5litepod-8", slices: int = 1) -> Program:
    return read_program(text, tpu_slice(accelerator), slices)


def program(*entry: str, others: str = "") -> str:
    body = "\n".join(f"  {line}" for line in entry)
    return (
        f"HloModule step, is_scheduled=true\n\n{others}\nENTRY %main (p: f32[8]) -> f32[8] {{\n{body}\n}}\n"
    )


def fusion(name: str, cycles: int | None, shape: str = "f32[8]{0:T(256)}", calls: str = "%inside") -> str:
    return f"%{name} = {shape} fusion(%p), kind=kLoop, calls={calls}, " + (
        ESTIMATE % cycles if cycles is not None else "backend_config={}"
    )


INSIDE = "%inside (q: f32[8]) -> f32[8] {\n  ROOT %n = f32[8]{0} negate(%q), " + ESTIMATE % 7 + "\n}\n"


def loop(condition: str) -> str:
    """A body of 100 cycles with an all-reduce of 32 bytes over 4 devices, and the loop that runs it."""
    body = (
        "%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {\n  "
        + fusion("f", 100)
        + "\n  %r = f32[8]{0} all-reduce(%f), replica_groups={{0,1,2,3}}, to_apply=%sum\n}\n"
    )
    test = f"%test (t: (s32[], f32[8])) -> pred[] {{\n{condition}}}\n"
    line = "%w = (s32[], f32[8]{0}) while(%t), condition=%test, body=%body"
    return program(line, fusion("after", 5), others=INSIDE + body + test)


COUNTED = (
    "  %i = s32[] get-tuple-element(%t), index=0\n  %n = s32[]{:T(128)} constant(24)\n"
    "  ROOT %c = pred[] compare(%i, %n), direction=LT\n"
)


def test_a_fusions_estimate_stands_for_what_is_in_it():
    assert read(program(fusion("a", 100), fusion("b", 20), others=INSIDE)).cycles == 120
    assert read(program(fusion("a", None), others=INSIDE)).cycles == 7


def test_a_call_is_what_it_calls():
    assert read(program("%c = f32[8]{0} call(%p), to_apply=%inside", others=INSIDE)).cycles == 7


def test_a_loop_counts_as_often_as_it_runs():
    found = read(loop(COUNTED))
    assert (found.cycles, found.open_loops) == (24 * 100 + 5, 0)
    assert found.collectives == (
        Collective("all-reduce", False, False, 24, 24 * 32, 24 * 48, 24 * 48 / RATE),
    )


def test_a_loop_whose_condition_is_a_fusion_is_counted_too():
    compared = (
        "%compared (i: s32[], n: s32[]) -> pred[] {\n  ROOT %c = pred[] compare(%i, %n), direction=LT\n}\n"
    )
    condition = (
        "  %n = s32[] constant(6)\n  ROOT %f = pred[] fusion(%i, %n), kind=kLoop, calls=%compared, "
        + ESTIMATE % 3
        + "\n"
    )
    found = read(compared + loop(condition))
    assert found.cycles == 6 * 100 + 5


@pytest.mark.parametrize(
    "condition", ["  ROOT %c = pred[] get-tuple-element(%t), index=1\n", COUNTED.replace("=LT", "=NE")]
)
def test_a_loop_that_ends_by_its_data_is_said_to(condition):
    found = read(loop(condition))
    assert (found.cycles, found.open_loops) == (105, 1)


@pytest.mark.parametrize(
    "attributes",
    ["branch_computations={%inside, %long}", "true_computation=%inside, false_computation=%long"],
)
def test_of_a_choice_the_longer_branch_counts(attributes):
    long = "%long (q: f32[8]) -> f32[8] {\n  " + fusion("l", 50) + "\n}\n"
    line = f"%c = f32[8]{{0}} conditional(%p, %a, %b), {attributes}"
    assert read(program(line, others=INSIDE + long)).cycles == 50


@pytest.mark.parametrize(
    ("instruction", "kind", "size", "sent"),
    [
        ("f32[8]{0} all-reduce(%p), replica_groups={{0,1,2,3},{4,5,6,7}}", "all-reduce", 32, 48),
        ("bf16[8]{0} all-reduce-start(%p), replica_groups=[4,2]<=[8]", "all-reduce", 16, 16),
        ("(f32[4]{0}, s32[]) all-reduce(%p, %q), replica_groups=[1,2]<=[2]", "all-reduce", 20, 20),
        ("f32[8]{0} all-gather(%p), dimensions={0}, replica_groups=[2,4]<=[4,2]T(1,0)", "all-gather", 32, 24),
        (
            "(f32[2]{0}, f32[8]{0}) all-gather-start(%p), replica_groups=[1,4]<=[4]",
            "all-gather",
            32,
            24,
        ),
        (
            "f32[2]{0} reduce-scatter(%p), replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}",
            "reduce-scatter",
            32,
            24,
        ),
        ("f32[8]{0} all-to-all(%p), replica_groups={{0,1}}", "all-to-all", 32, 16),
        (
            "f32[8]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}",
            "collective-permute",
            32,
            32,
        ),
    ],
)
def test_exchanges_are_counted_in_bytes(instruction, kind, size, sent):
    found = read(program(f"%x = {instruction}, to_apply=%sum"))
    started = "-start" in instruction
    assert found.collectives == (Collective(kind, False, started, 1, size, sent, sent / RATE),)
    assert found.cycles == 0


def test_an_exchange_that_has_started_is_not_counted_again():
    found = read(
        program(
            "%s = f32[8]{0} all-reduce-start(%p), replica_groups={{0,1}}",
            "%d = f32[8]{0} all-reduce-done(%s)",
        )
    )
    assert [one.count for one in found.collectives] == [1]


def test_a_group_of_one_device_exchanges_nothing():
    found = read(program("%x = f32[8]{0} all-reduce(%p), replica_groups={{0},{1}}"))
    assert found.collectives == ()


@pytest.mark.parametrize(
    ("groups", "between"),
    [
        ("{{0,1},{2,3}}", False),
        ("{{0,2},{1,3}}", True),
        ("[2,2]<=[2,2]T(1,0)", True),
        ("mesh['replica'=2,'data'=2] {'replica'}", True),
        ("mesh['replica'=2,'data'=2] {'data'}", False),
    ],
)
def test_exchanges_between_slices_are_kept_apart(groups, between):
    text = program(f"%x = f32[8]{{0}} all-reduce(%p), replica_groups={groups}")
    assert [one.between_slices for one in read(text, slices=2).collectives] == [between]
    assert not read(text).collectives[0].between_slices


def test_what_has_no_estimate_is_listed_where_it_is_large():
    large = "u32[512,1024]{1,0:T(8,128)}"
    scatters = "%adds (q: f32[8]) -> f32[8] {\n  ROOT %s = f32[8]{0} scatter(%q, %q, %q), to_apply=%sum\n}\n"
    found = read(
        program(
            f"%r = {large} rng-bit-generator(%p), algorithm=rng_default",
            f"%q = {large} rng-bit-generator(%p), algorithm=rng_default",
            "%small = u32[8]{0} rng-bit-generator(%p), algorithm=rng_default",
            f"%b = {large} bitcast(%r)",
            f'%a = {large} custom-call(), custom_call_target="AllocateBuffer"',
            f'%k = {large} custom-call(%p), custom_call_target="SortKernel"',
            fusion("s", None, large, "%adds"),
            others=scatters,
        )
    )
    least = 2**21 / CHIP.hbm_bytes * CHIP.clock_hz
    assert found.unestimated == {
        "rng-bit-generator": Unestimated(2, 0, 2 * 2**21, 2 * least),
        "SortKernel": Unestimated(1, 0, 2**21, least),
        "scatter": Unestimated(1, 0, 32, 32 / 2**21 * least),  # what it adds has 32 bytes
    }


def test_a_kernel_whose_attributes_take_several_lines_ends_nothing():
    kernel = '%k = f32[8]{0} custom-call(%p), custom_call_target="kernel", frontend_attributes={x={\n}}, metadata={}'
    assert read(program(kernel, fusion("after", 5), others=INSIDE)).cycles == 5


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        read("HloModule step\n")
