"""The overview before step 0: what each parameter takes, and where it lies."""

import io

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from pretrain.config import MeshConfig
from pretrain.devices.mesh import make_mesh, sharding
from pretrain.reports.start_summary import Memory, Plan, bytes_per_device, overview, parameter_rows

PLAN = Plan(
    steps=1000, start_step=200, global_batch=32, seq_len=128, predictions=19, grad_accum=2, dtype="float32",
    step_flops=2.5e12, peak_flops=1e12, steps_per_epoch=400,
)  # fmt: skip


@pytest.fixture
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.fixture
def params(mesh):
    shapes = {"layers": {"up": ((4, 8, 16), ("layers", "embed", "mlp")), "bias": ((4, 8), ("layers", None))}}

    def leaf(entry):
        return jax.ShapeDtypeStruct(entry[0], jnp.float32, sharding=sharding(mesh, entry[1], entry[0]))

    return jax.tree.map(leaf, shapes, is_leaf=lambda x: isinstance(x, tuple))


def show(renderable):
    console = Console(file=io.StringIO(), width=80)
    console.print(renderable)
    return console.file.getvalue()


def test_rows_say_shape_count_share_and_sharding(params):
    bias, up = parameter_rows(params)
    assert (bias.name, bias.shape, bias.count, bias.split) == ("layers.bias", (4, 8), 32, "replicated")
    assert (up.name, up.shape, up.count, up.split) == ("layers.up", (4, 8, 16), 512, "-,fsdp,tensor")
    assert up.share == pytest.approx(512 / 544)


def test_bytes_per_device_are_those_of_a_shard(params):
    assert bytes_per_device(params) == 4 * (512 // 4 + 32)
    assert bytes_per_device({"x": jnp.ones((3, 5), jnp.bfloat16)}) == 30


def test_the_whole_overview_fits_80_columns(params, mesh):
    memory = Memory(params=2**20, optimizer=2**21, temporary=2**22, limit=2**30)
    network = {"attention": "xla; cudnn needs config.dtype=bfloat16, not float32"}
    text = show(overview(params, mesh, PLAN, memory, network=network, processes=2))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines[1:5]] == [
        ["layers", "544", "100.0%"],
        ["bias", "4x8", "32", "5.9%", "replicated"],
        ["up", "4x8x16", "512", "94.1%", "-,fsdp,tensor"],
        ["total", "544", "544", "100.0%"],
    ]
    words = " ".join(text.split())
    for part in (
        "devices 8 x cpu, 2 processes",
        "mesh data=2, fsdp=2, tensor=2",
        "7.0 MiB of 1.0 GiB (params 1.0 MiB, optimizer 2.0 MiB, step 4.0 MiB)",
        "32 rows x 128 tokens = 4,096 tokens a step, in 2 micro-batches",
        "1,000 (4.1M tokens), 200 done, 400 an epoch: 2.5 epochs",
        "float32, 2.5 TFLOP a step; at peak (1.0 TFLOP/s) 2.5 s",
        "attention xla; cudnn needs config.dtype=bfloat16, not float32",
    ):
        assert part in words


def test_a_later_phase_shows_only_what_is_its_own(params, mesh):
    text = show(overview(params, mesh, PLAN, Memory(params=1024, optimizer=0), again=True))
    assert "layers" not in text and "devices" not in text and "mesh" not in text
    assert "32 rows x 128 tokens" in text and "memory per device" in text


def test_what_is_not_known_is_left_out(params, mesh):
    plan = Plan(10, 0, 8, 16, 3, 1, "float32", 1e9, None)
    text = show(overview(params, mesh, plan, Memory(params=1024, optimizer=0)))
    assert "2.0 KiB" not in text and "1.0 KiB (params 1.0 KiB, optimizer 0 B)" in text
    assert "epoch" not in text and "peak" not in text and "micro" not in text and "done" not in text
