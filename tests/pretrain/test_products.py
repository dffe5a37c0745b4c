"""Products of short types: rounded once, the same gradients, in the form that each platform's units take."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.devices.mesh import make_mesh, sharding
from pretrain.models.matrix_products import einsum
from tests.quick_start import CACHE
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


def test_float32_is_left_to_xla():
    x, y = (jnp.ones(shape, jnp.float32) for shape in ((4, 8, 16), (16, 32)))
    ours, plain = (
        str(jax.make_jaxpr(functools.partial(product, "XYD,DF->XYF"))(x, y))
        for product in (einsum, jnp.einsum)
    )
    assert "custom_vjp" not in ours and ours.count("dot_general") == plain.count("dot_general") == 1


AS_USERS_COMPILE = """
import sys, tempfile
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from finetune.classifier.pretrained import load_encoder_for_classification
from tests.finetune.reference_models import pairs_of_texts, random_model
from tests.pretrain.test_mesh import MESHES, run

assert np.isfinite(run(*MESHES["tensor=2 x fsdp=4"], steps=1, dtype="bfloat16")[0]).all()
for family in sys.argv[1:]:
    with tempfile.TemporaryDirectory() as folder:
        random_model(family, Path(folder))
        start = load_encoder_for_classification(folder, ("a", "b", "c"), dtype="bfloat16")
    batch = pairs_of_texts(start.classifier.token_types, padded=True)
    loss = lambda params: jnp.sum(jax.nn.log_softmax(start.classifier.logits(params, **batch))[:, 0])
    params = jax.tree.map(lambda array: jnp.stack([array] * 2), start.params)
    gradients = jax.jit(jax.vmap(jax.grad(loss)))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients)), family
    print(family)
"""


@pytest.mark.slow
def test_the_networks_train_as_users_compile_them():
    """Which products XLA refuses depends on the whole program and on its optimisations."""
    kinds_of_layer = ["bert", "distilbert", "modernbert"]
    unset = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", AS_USERS_COMPILE, *kinds_of_layer],
        cwd=Path(__file__).parents[2],
        # A program that XLA refuses is never in the cache.
        env={**env, "JAX_NUM_CPU_DEVICES": "8", "JAX_COMPILATION_CACHE_DIR": str(CACHE)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.split() == kinds_of_layer, done.stderr[-2000:]
