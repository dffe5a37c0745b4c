"""Where a step's time goes: parts of the network by the names of operations, FLOPs, bytes, and bounds of the rest."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params
from rich.console import Console

from base.tpu_types import tpu_slice
from pretrain.models import build
from pretrain.models.huggingface import parse_config
from pretrain.plan import breakdown
from pretrain.plan.network_parts import Part, is_backward, part_of
from pretrain.plan.program import Program, Work, read_program

CHIP = tpu_slice("v5litepod-8")
FORWARD = "jit(train_step)/jvp(layer)"
BACKWARD = "jit(train_step)/transpose(jvp(layer))"


def note(op_name: str, cycles: int | None = None) -> str:
    """What follows the operands of an instruction."""
    estimate = "" if cycles is None else f', backend_config={{"estimated_cycles":"{cycles}"}}'
    return f'metadata={{op_name="{op_name}"}}{estimate}'


def read(*entry: str, others: str = "") -> Program:
    body = "\n".join(f"  {line}" for line in entry)
    return read_program(
        f"HloModule step\n\n{others}\nENTRY %main (p: f32[8]) -> f32[8] {{\n{body}\n}}\n", CHIP
    )


PRODUCT = """%product (a: bf16[128,768], b: bf16[768,3072]) -> bf16[128,3072] {
  %a = bf16[128,768]{1,0} parameter(0)
  %b = bf16[768,3072]{1,0} parameter(1)
  %c = f32[128,3072]{1,0} convolution(%a, %b), dim_labels=bf_io->bf, NAME
  ROOT %d = bf16[128,3072]{1,0} convert(%c), metadata={op_name="jit(train_step)/jvp(layer)/activation/mul"}
}
"""


@pytest.mark.parametrize(
    ("op_name", "is_product", "part"),
    [
        (f"{FORWARD}/embed_to_heads/dot_general", True, Part.QUERY_KEY_VALUE),
        (f"{BACKWARD}/attention/bnsq,bnsh->bnqh/dot_general", True, Part.ATTENTION),
        (f"{FORWARD}/attention/exp", False, Part.SOFTMAX),
        (f"{FORWARD}/attention/dropout/select_n", False, Part.SOFTMAX),
        (f"{FORWARD}/attention/dropout_mask/ge", False, Part.DROPOUT),
        (f"{FORWARD}/dropout/select_n", False, Part.DROPOUT),
        (f"{FORWARD}/embed_to_mlp/add", False, Part.NORMS),
        (f"{FORWARD}/activation/tanh", False, Part.ACTIVATION),
        (f"{FORWARD}/norm/rsqrt", False, Part.NORMS),
        (f"{FORWARD}/add", False, Part.NORMS),
        ("jit(train_step)/jvp(embeddings)/norm/rsqrt", False, Part.EMBEDDINGS),
        ("jit(train_step)/jvp(loss)/head/embed_to_embed/dot_general", True, Part.HEAD),
        ("jit(train_step)/jvp(loss)/exp", False, Part.LOSS),
        ("jit(train_step)/optimizer/mul", False, Part.OPTIMIZER),
        ("jit(train_step)/add", False, Part.REST),
        ("", False, Part.REST),
    ],
)
def test_the_scopes_of_an_operation_name_its_part(op_name, is_product, part):
    assert part_of(op_name, is_product=is_product) is part
    assert is_backward(op_name) == ("transpose" in op_name)


def test_a_fusion_belongs_to_its_product():
    name = f'metadata={{op_name="{BACKWARD}/mlp_to_embed/dot_general"}}'
    line = (
        f"%f = bf16[128,3072]{{1,0}} fusion(%x, %y), calls=%product, {note(FORWARD + '/activation/mul', 9)}"
    )
    found = read(
        "%x = bf16[128,768]{1,0} parameter(0)",
        "%y = bf16[768,3072]{1,0:T(8,128)S(1)} parameter(1)",
        line,
        others=PRODUCT.replace("NAME", name),
    )
    # The second operand lies in on-chip memory.
    moved = 2 * (128 * 768 + 128 * 3072)
    assert found.parts == {(Part.DOWN, True): Work(9, 0, 2 * 128 * 768 * 3072, moved)}


STACK = """%put (s: f32[24,8,128], i: s32[], x: bf16[8,128]) -> f32[24,8,128] {
  %s = f32[24,8,128]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %x = bf16[8,128]{1,0} parameter(2)
  %e = f32[1,8,128]{2,1,0} convert(%x)
  ROOT %u = f32[24,8,128]{2,1,0} dynamic-update-slice(%s, %e, %i, %i, %i)
}

%take (s: f32[24,8,128], i: s32[]) -> f32[8,128] {
  %s = f32[24,8,128]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %m = f32[24,8,128]{2,1,0} negate(%s)
  %e = f32[1,8,128]{2,1,0} dynamic-slice(%m, %i, %i, %i), dynamic_slice_sizes={1,8,128}
  %b = f32[8,128]{1,0} bitcast(%e)
  ROOT %n = f32[8,128]{1,0} negate(%b)
}
"""


def test_of_a_stack_the_layer_that_is_read_or_written_counts():
    found = read(
        "%s = f32[24,8,128]{2,1,0} parameter(0)",
        "%i = s32[]{:S(6)} parameter(1)",
        "%x = bf16[8,128]{1,0:S(1)} parameter(2)",
        f"%put.1 = f32[24,8,128]{{2,1,0}} fusion(%s, %i, %x), calls=%put, {note(FORWARD + '/activation/mul', 5)}",
        f"%take.1 = f32[8,128]{{1,0:S(1)}} fusion(%s, %i), calls=%take, {note(BACKWARD + '/norm/neg', 3)}",
        others=STACK,
    )
    layer = 4 * 8 * 128
    assert found.parts == {
        (Part.STACK, False): Work(5, 0, 0, layer),
        (Part.NORMS, True): Work(3, 0, 0, layer),
    }


def test_a_look_up_reads_its_rows_and_not_the_table():
    table, rows = "f32[50304,768]{1,0}", "f32[1024,768]{1,0}"
    found = read(
        f"%t = {table} parameter(0)",
        "%i = s32[1024]{0:S(1)} parameter(1)",
        f"%x = {rows} gather(%t, %i), {note('jit(train_step)/jvp(embeddings)/gather')}",
        f"%y = {table} scatter(%t, %i, %x), {note('jit(train_step)/transpose(jvp(embeddings))/scatter-add')}",
    )
    moved = 2 * 4 * 1024 * 768
    least = moved / CHIP.hbm_bytes * CHIP.clock_hz
    assert found.parts == {
        (Part.EMBEDDINGS, False): Work(0, least, 0, moved),
        (Part.EMBEDDINGS, True): Work(0, least, 0, moved),
    }
    assert [(name, one.count) for name, one in found.unestimated.items()] == [("gather", 1), ("scatter", 1)]


@pytest.mark.parametrize("kind", ["f8e4m3fn[24,8]", "s4[24,8]", "f32[0,8]"])
def test_a_part_of_an_array_without_bytes_moves_none(kind):
    part = kind.replace("24", "1").replace("[0", "[1")
    found = read(
        f"%s = {kind}{{1,0}} parameter(0)",
        f"%e = {part}{{1,0}} dynamic-slice(%s, %i, %i), {note(FORWARD + '/dynamic_slice', 3)}",
    )
    assert found.cycles == 3


KERNEL = (
    '%mha.7 = bf16[8,1024,64]{2,1,0} custom-call(%q, %k), custom_call_target="tpu_custom_call", '
    'frontend_attributes={kernel_metadata={\n}}, metadata={op_name="jit(train_step)/jvp(layer)/attention/mha"}, '
    'backend_config={"custom_call_config": {"body": "TUz", "cost_estimate": COST}}'
)


@pytest.mark.parametrize(
    ("cost", "flops", "moved"),
    [
        ('{"flops": 4000000000, "transcendentals": 5, "bytes_accessed": 3000000}', 4e9, 3e6),
        ("null", 0, 3 * 2 * 8 * 1024 * 64),
    ],
)
def test_a_kernel_without_an_estimate_is_named_and_bounded(cost, flops, moved):
    operands = [f"%{name} = bf16[8,1024,64]{{2,1,0}} parameter({index})" for index, name in enumerate("qk")]
    found = read(*operands, KERNEL.replace("COST", cost))
    least = max(flops / CHIP.peak_bf16, moved / CHIP.hbm_bytes) * CHIP.clock_hz
    assert list(found.unestimated) == ["mha"]
    assert found.parts == {(Part.ATTENTION, False): Work(0, least, flops, moved)}
    assert found.whole_seconds(CHIP.clock_hz) == pytest.approx(least / CHIP.clock_hz)


def test_the_flops_of_splash_attention_follow_from_its_shapes():
    heads, blocks = "bf16[16,12,1024,64]{3,2,1,0}", "s8[1,2,KEYS]{2,1,0}"

    def flops(name: str, keys: int) -> float:
        shapes = [blocks.replace("KEYS", str(keys)), heads, heads, heads]
        operands = [f"%{index} = {shape} parameter({index})" for index, shape in enumerate(shapes)]
        call = f'%{name}.3 = {heads} custom-call(%0, %1, %2, %3), custom_call_target="tpu_custom_call"'
        (kernel,) = read(*operands, call).unestimated.values()
        return kernel.flops

    product = 2 * 16 * 12 * 1024**2 * 64
    assert flops("splash_mha_fwd_segmented_residuals", 2) == 2 * product
    assert flops("splash_mha_dq_segmented_no_residuals", 2) == 3 * product
    assert (
        flops("splash_mha_dkv_segmented_no_residuals", 1) == 4 * product / 2
    )  # a window visits half of the blocks
    assert flops("rms_norm", 2) == 0


def test_the_parts_of_a_loop_and_of_exchanges_sum_to_the_step():
    body = (
        "%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {\n"
        f"  %m = f32[2048,2048]{{1,0}} multiply(%x, %x), {note(FORWARD + '/norm/mul', 1000)}\n"
        f"  %r = f32[2048,2048]{{1,0}} rng-bit-generator(%x), {note(FORWARD + '/dropout_mask/bits')}\n"
        "  %s = f32[2048,2048]{1,0} all-reduce(%m), replica_groups={{0,1,2,3}}, to_apply=%sum\n}\n"
        "%test (t: (s32[], f32[8])) -> pred[] {\n"
        "  %n = s32[] constant(12)\n  ROOT %c = pred[] compare(%i, %n), direction=LT\n}\n"
    )
    found = read("%w = (s32[], f32[8]{0}) while(%t), condition=%test, body=%body", others=body)
    size = 4 * 2048**2
    random, sent = 12 * size / CHIP.hbm_bytes, 12 * 1.5 * size / CHIP.link_bytes
    assert (found.cycles, found.least) == (12_000, pytest.approx(random * CHIP.clock_hz))
    assert found.whole_seconds(CHIP.clock_hz) == pytest.approx(12_000 / CHIP.clock_hz + random + sent)
    shown = Console(width=80, color_system=None)
    with shown.capture() as capture:
        shown.print(breakdown.table("x", found, CHIP))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    step = [
        line.split()
        for line in lines
        if line.strip().startswith(("norms", "dropout", "exchanges", "the step"))
    ]
    columns = [[float(cell.replace("-", "0")) for cell in line[-8:]] for line in step]
    assert columns[-1] == pytest.approx([sum(values) for values in zip(*columns[:-1])], abs=0.15)
    assert sum(columns[-1][:3]) == pytest.approx(1e-3 * CHIP.clock_hz * (random + sent) + 12, abs=0.2)


def test_the_arithmetic_of_a_fusion_with_an_exchange_counts_in_the_row_of_exchanges():
    inside = (
        "%sums (p: f32[2048,2048]) -> f32[2048,2048] {\n  %q = f32[2048,2048]{1,0} parameter(0)\n"
        "  %m = f32[2048,2048]{1,0} multiply(%q, %q)\n"
        "  ROOT %r = f32[2048,2048]{1,0} all-reduce(%m), replica_groups={{0,1}}\n}\n"
    )
    fusion = f"%x = f32[2048,2048]{{1,0}} fusion(%p), calls=%sums, {note(BACKWARD + '/add', 7_000_000)}"
    found = read("%p = f32[2048,2048]{1,0} parameter(0)", fusion, others=inside)
    shown = Console(width=80, color_system=None)
    with shown.capture() as capture:
        shown.print(breakdown.table("x", found, CHIP))
    rows = {line.strip()[:9].strip(): line.split()[-8:] for line in capture.get().splitlines()}
    assert rows["exchanges"] == rows["the step"]
    forward, backward, left_out = (float(cell.replace("-", "0")) for cell in rows["exchanges"][:3])
    assert (forward, backward, left_out) == (0, 7.0, 0)
    assert found.whole_seconds(CHIP.clock_hz) == pytest.approx(7_000_000 / CHIP.clock_hz)


def test_an_exchange_within_the_chips_of_a_v3_leaves_none():
    """A v3-8 has two devices on each of four chips: these may sum up before anything leaves a chip."""
    for members, chips in ((8, 4), (2, 1)):
        groups = "{{" + ",".join(map(str, range(members))) + "}}"
        text = f"ENTRY %main (p: f32[8]) -> f32[8] {{\n  %x = f32[8]{{0}} all-reduce(%p), replica_groups={groups}\n}}\n"
        v3 = tpu_slice("v3-8")
        (found,) = read_program(text, v3).collectives
        assert found.seconds == pytest.approx(2 * (chips - 1) / chips * 32 / v3.link_bytes)


def test_an_exchange_overlaps_where_it_starts_and_ends_apart_or_shares_a_fusion_with_arithmetic():
    inside = (
        "%sums (p: f32[8]) -> f32[8] {\n  ROOT %r = f32[8]{0} all-reduce(%p), replica_groups={{0,1}}\n}\n"
    )

    def is_overlapped(*lines: str) -> list[bool]:
        return [one.asynchronous for one in read(*lines, others=inside).collectives]

    assert is_overlapped("%x = f32[8]{0} all-reduce(%p), replica_groups={{0,1}}") == [False]
    assert is_overlapped("%x = f32[8]{0} all-reduce-start(%p), replica_groups={{0,1}}") == [True]
    assert is_overlapped("%x = ((f32[8]), f32[8]) async-start(%p), calls=%sums") == [True]
    assert is_overlapped(f"%x = f32[8]{{0}} fusion(%p), calls=%sums, {note('', 7)}") == [True]
    assert is_overlapped("%x = f32[8]{0} fusion(%p), calls=%sums") == [False]


def products(jaxpr: jax.extend.core.Jaxpr, path: str = "", times: int = 1) -> Counter[tuple[Part, bool]]:
    """Multiplies of the matrix products of a traced function, by part and pass."""
    found: Counter[tuple[Part, bool]] = Counter()
    for equation in jaxpr.eqns:
        name = f"{path}/{equation.source_info.name_stack}"
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            size = math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
            found[part_of(name, is_product=True), is_backward(name)] += times * size
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            found += products(inner, name, times * repeats)
    return found


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_every_product_of_a_network_has_a_part(family):
    sizes = {
        "vocab_size": 50,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "pad_token_id": 0,
    }
    config = parse_config({"model_type": family, "num_hidden_layers": 4, **sizes}, "here")
    model, (B, S, K) = build(config), (3, 10, 4)
    tokens = jnp.ones((B, S), jnp.int32)

    def loss(params):
        return jnp.sum(model.predict(params, model.encode(params, tokens, tokens, tokens)[:, :K]))

    found = products(jax.make_jaxpr(jax.grad(loss))(model.shapes()).jaxpr)
    layers, gates, (D, F, V) = 4, 1 + config.is_gated, (8, 20, config.vocab_rows)
    bias = B * K * V  # added by a product with ones, whose gradient is one product more
    assert {part: size for (part, backward), size in found.items() if not backward} == {
        Part.QUERY_KEY_VALUE: layers * 3 * B * S * D * D,
        Part.ATTENTION: layers * 2 * B * S * S * D,
        Part.OUTPUT: layers * B * S * D * D,
        Part.UP: layers * gates * B * S * D * F,
        Part.DOWN: layers * B * S * D * F,
        Part.HEAD: B * K * D * (D + V) + bias,
    }
    for (part, backward), size in found.items():
        assert size == found[part, False] * (2 if backward else 1) - bias * (backward and part is Part.HEAD)
