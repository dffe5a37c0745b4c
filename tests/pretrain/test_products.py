"""Products of short types: rounded once, the same gradients, in the form that each platform's units take."""

import functools
import re
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AxisType

from finetune.classifier.pretrained import load_encoder_for_classification
from pretrain.config import MeshConfig
from pretrain.devices.mesh import make_mesh, sharding
from pretrain.models.matrix_products import einsum
from tests.compiled import jit_as_users
from tests.finetune.reference_models import pairs_of_texts, random_model
from tests.pretrain.test_mesh import run
from tests.tiny import tiny_config

SPECS = ("XD,DF->XF", "XYD,DF->XYF", "XYZD,DF->XYZF", "BQNH,BSNH->BNQS", "BNQS,BSNH->BQNH", "BKD,VD->BKV")


def _arrays(spec: str, sizes: dict[str, int], seed: int = 0):
    """Two bfloat16 arrays and a gradient of the result."""
    rng = np.random.default_rng(seed)
    terms = re.split(",|->", spec)
    return [jnp.asarray(rng.normal(size=[sizes[c] for c in term]), jnp.bfloat16) for term in terms]


def _with_gradients(spec: str, product, x, y, gradient):
    result, pull = jax.vjp(lambda x, y: product(spec, x, y), x, y)
    return result, *pull(gradient.astype(result.dtype))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("size", [1, 3, 24])
def test_it_is_the_float32_product_rounded_once(spec: str, size: int):
    sizes = {letter: size + (index % 3) for index, letter in enumerate(sorted(set(spec) - set(",->")))}
    arrays = _arrays(spec, sizes)
    found = jax.jit(functools.partial(_with_gradients, spec, einsum))(*arrays)
    exact = jax.jit(functools.partial(_with_gradients, spec, jnp.einsum))(
        *(each.astype(jnp.float32) for each in arrays)
    )
    for mine, theirs in zip(found, exact, strict=True):
        assert mine.dtype == jnp.bfloat16
        # One rounding to 8 bits, of sums that are exact to many more.
        np.testing.assert_allclose(mine.astype(np.float32), theirs, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_a_population_on_a_mesh_has_the_same_products(spec: str):
    letters = sorted(set(spec) - set(",->"))
    sizes = {letter: 8 if letter in "XB" else 5 for letter in letters}
    mesh = make_mesh(tiny_config("", mesh={"data": 8}).mesh)
    members = [_arrays(spec, sizes, seed) for seed in range(3)]
    stacked = [jnp.stack(each) for each in zip(*members, strict=True)]
    by_rows = [
        jax.device_put(array, sharding(mesh, (None, "batch" if term[0] in "XB" else None), array.shape))
        for array, term in zip(stacked, re.split(",|->", spec), strict=True)
    ]
    together = jax.jit(jax.vmap(functools.partial(_with_gradients, spec, einsum)))(*by_rows)
    for index, arrays in enumerate(members):
        alone = _with_gradients(spec, einsum, *arrays)
        for mine, theirs in zip(together, alone, strict=True):
            np.testing.assert_allclose(
                mine[index].astype(np.float32), theirs.astype(np.float32), rtol=2**-7, atol=1e-2
            )


def test_scores_and_logits_may_be_float32_with_short_gradients():
    x, y, gradient = _arrays("BKD,VD->BKV", {"B": 2, "K": 3, "D": 8, "V": 16})
    result, pull = jax.vjp(lambda x, y: einsum("BKD,VD->BKV", x, y, jnp.float32), x, y)
    assert result.dtype == jnp.float32
    assert [each.dtype for each in pull(gradient.astype(jnp.float32))] == [jnp.bfloat16] * 2


def _products(platform: str) -> list[str]:
    """Types of the products of a linear map and of its gradients, "inputs -> result", as lowered for a platform."""
    arrays = _arrays("XYD,DF->XYF", {"X": 4, "Y": 8, "D": 16, "F": 32})
    step = jax.jit(functools.partial(_with_gradients, "XYD,DF->XYF", einsum))
    module = jax.export.export(step, platforms=[platform])(*arrays).mlir_module()
    types = r"dot_general.*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\) -> tensor<[\dx]*x(\w+)>"
    return [f"{first} {second} -> {result}" for first, second, result in re.findall(types, module)]


def test_the_units_of_each_platform_can_take_it():
    """XLA has AMX products of bfloat16 that give float32, and no others; accelerators round within the product."""
    assert _products("cpu") == ["bf16 bf16 -> f32"] * 3
    for platform in ("tpu", "cuda"):
        assert _products(platform) == ["bf16 bf16 -> bf16"] * 3


def _on(platform: str) -> jax.sharding.AbstractMesh:
    """A mesh of one device of a platform that this machine need not have."""
    device = AbstractDevice(device_kind=platform, num_cores=None, platform=platform)
    return jax.sharding.AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)


def _gradient(dtype: str | None, *, policy=None) -> str:
    """The gradient of a chain of two products, as JAX traces it; with `policy`, under jax.checkpoint."""

    def loss(x, y):
        hidden = jnp.sin(einsum("XD,DF->XF", x, y))
        return jnp.sum(jnp.sin(einsum("XF,FD->XD", hidden, jnp.swapaxes(y, 0, 1), dtype)))

    x, y, _ = _arrays("XD,DF->XF", {"X": 4, "D": 8, "F": 16})
    loss = jax.checkpoint(loss, policy=policy) if policy else loss
    return str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, y))


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_what_is_compiled_for_an_accelerator_has_plain_products(platform: str):
    """As on this machine, which has none: a plan compiles for a TPU on any machine."""
    with jax.sharding.use_abstract_mesh(_on(platform)):
        text = _gradient(None)
    assert text.count("dot_general[") == 6
    assert "custom_vjp" not in text and "cond[" not in text and "platform_index" not in text
    assert "preferred_element_type=float32" not in text


@pytest.mark.parametrize(("platform", "mixed"), [("tpu", 2), ("gpu", 0), ("cpu", 0)])
def test_a_gpu_has_short_gradients_of_a_wider_result(platform: str, mixed: int):
    """XLA's GPU compiler makes a product of float32 and bfloat16 one of float32; a TPU takes it as it is."""
    with jax.sharding.use_abstract_mesh(_on(platform)):
        text = _gradient("float32")
    found = re.findall(r"(\w+):(\w+)\[[\d,]*\] = dot_general\[.*?\] (\w+) (\w+)", text, re.DOTALL)
    types = dict(re.findall(r"(\w+):(\w+)\[", text))
    assert len(found) == 6 and (platform == "cpu" or "custom_vjp" not in text)
    assert sum(types[first] != types[second] for _, _, first, second in found) == mixed


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_a_policy_of_checkpoint_sees_the_products(platform: str):
    """Two products forwards and four backwards; without the policy both are made again."""
    with jax.sharding.use_abstract_mesh(_on(platform)):
        kept = _gradient("float32", policy=jax.checkpoint_policies.dots_saveable)
        again = _gradient("float32", policy=jax.checkpoint_policies.nothing_saveable)
    assert (kept.count("dot_general["), again.count("dot_general[")) == (6, 8)


def test_the_gradient_of_a_wider_result_on_a_gpu_is_that_of_the_cpu():
    """Compiled here: the products are the same, whoever makes them."""
    spec, sizes = "BKD,VD->BKV", {"B": 2, "K": 3, "D": 8, "V": 16}
    x, y, gradient = _arrays(spec, sizes)
    found = []
    for platform in ("gpu", "cpu"):
        with jax.sharding.use_abstract_mesh(_on(platform)):
            result, pull = jax.vjp(lambda x, y: einsum(spec, x, y, jnp.float32), x, y)
            found.append([result, *pull(gradient.astype(jnp.float32))])
    for mine, theirs in zip(*found, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine.astype(np.float32), theirs.astype(np.float32), rtol=2**-7, atol=1e-5)


def test_without_a_mesh_float32_is_left_to_xla():
    x, y = (jnp.ones(shape, jnp.float32) for shape in ((4, 8, 16), (16, 32)))
    ours, plain = (
        str(jax.make_jaxpr(functools.partial(product, "XYD,DF->XYF"))(x, y))
        for product in (einsum, jnp.einsum)
    )
    assert "custom_vjp" not in ours and ours.count("dot_general") == plain.count("dot_general") == 1


def _compiled_with_gradients(spec: str, sizes: dict[str, int], devices: int) -> tuple[list[jax.Array], str]:
    """A product of float32 with its gradients on a mesh of CPUs that splits its rows, and the compiled program."""
    x, y, weights = (array.astype(jnp.float32) for array in _arrays(spec, sizes))

    def product(spec, x, y):
        return jnp.sin(weights * einsum(spec, x, y))

    mesh = make_mesh(MeshConfig(), jax.devices("cpu")[:devices])
    with jax.set_mesh(mesh):
        by_rows = jax.device_put(x, sharding(mesh, ("batch", *[None] * (x.ndim - 1)), x.shape))
        compiled = (
            jax.jit(functools.partial(_with_gradients, spec, product)).lower(by_rows, y, weights).compile()
        )
        return list(compiled(by_rows, y, weights)), compiled.as_text()


@pytest.mark.parametrize("spec", ["XYD,DF->XYF", "XYD,FD->XYF", "XY,F->XYF"])
def test_on_one_cpu_no_gradient_is_copied_for_that_of_the_other_array(spec: str):
    """XLA transposes the gradient of a result with several axes of rows, to [5, 48] here, before it multiplies."""
    sizes = {"X": 2, "Y": 24, "D": 8, "F": 5}
    found, program = _compiled_with_gradients(spec, sizes, 1)
    assert "f32[5,48]" not in program
    on_two, split = _compiled_with_gradients(spec, sizes, 2)
    assert "f32[5,24]" in split
    for mine, theirs in zip(found, on_two, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [*SPECS, "BSGI,GOI->BSGO", "BQNH,WNH->BNQW", "BK,V->BKV"])
def test_on_one_cpu_products_of_float32_are_the_same(spec: str):
    letters = sorted(set(spec) - set(",->"))
    x, y, gradient = (
        array.astype(jnp.float32) for array in _arrays(spec, {c: 2 + i for i, c in enumerate(letters)})
    )
    with jax.sharding.use_abstract_mesh(_on("cpu")):
        found = _with_gradients(spec, einsum, x, y, gradient)
    for mine, theirs in zip(found, _with_gradients(spec, jnp.einsum, x, y, gradient), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_step_on_a_mesh_runs_as_users_compile_it():
    """Which products XLA refuses depends on the whole program and on its optimisations."""
    mesh = MeshConfig(data=1, fsdp=2, tensor=2)
    losses, *_ = run(mesh, 4, steps=1, dtype="bfloat16", jit=jit_as_users)
    assert np.isfinite(losses).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_a_kind_of_layer_has_gradients_as_users_compile_them(family: str, tmp_path: Path):
    random_model(family, tmp_path, num_hidden_layers=2)
    start = load_encoder_for_classification(str(tmp_path), ("a", "b", "c"), dtype="bfloat16")
    batch = pairs_of_texts(start.classifier.token_types, padded=True)

    def loss(params):
        return jnp.sum(jax.nn.log_softmax(start.classifier.logits(params, **batch))[:, 0])

    params = jax.tree.map(lambda array: np.stack([array] * 2), start.params)
    gradients = jax.device_get(jit_as_users(jax.vmap(jax.grad(loss)))(params))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
