"""Dropout masks: their rate, their independence, and that a device draws those of its own rows only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrain.config import MeshConfig
from pretrain.devices.mesh import make_mesh, sharding
from pretrain.models.dropout import AUTO_BITS, dropout, keep_mask, kept

GENERATORS = ["threefry2x32", "rbg"]
LEVELS = 1 << 16


def _key(implementation: str, seed: int = 0) -> jax.Array:
    return jax.random.key(seed, impl=implementation)


@pytest.mark.parametrize("implementation", GENERATORS)
@pytest.mark.parametrize(("rate", "bits"), [(0.1, 16), (0.5, 16), (26 / 256, 8)])
def test_the_rate_is_the_one_asked_for_in_every_part_of_the_last_axis(
    implementation: str, rate: float, bits: int
):
    keep = np.asarray(keep_mask(_key(implementation), (64, 128, 64), round(rate * (1 << bits)), bits))
    error = 4 * np.sqrt(rate * (1 - rate))
    assert abs(keep.mean() - (1 - rate)) < error / np.sqrt(keep.size)
    by_column = keep.mean((0, 1))
    assert np.abs(by_column - (1 - rate)).max() < error * 1.2 / np.sqrt(64 * 128)


@pytest.mark.parametrize("implementation", GENERATORS)
@pytest.mark.parametrize("bits", [8, 16])
def test_elements_that_share_a_random_word_are_independent(implementation: str, bits: int):
    mask = keep_mask(_key(implementation), (200, 100, 8), (1 << bits) // 2, bits)
    drop = 1.0 - np.asarray(mask).reshape(-1, 8)
    correlation = np.corrcoef(drop, rowvar=False) - np.eye(8)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(drop))
    along_rows = np.corrcoef(drop[:-1, 0], drop[1:, 0])[0, 1]
    assert abs(along_rows) < 5 / np.sqrt(len(drop))


@pytest.mark.parametrize("implementation", GENERATORS)
@pytest.mark.parametrize("width", [1, 5, 6, 7])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_last_axis_of_any_width_gets_a_mask(implementation: str, width: int, bits: int):
    assert keep_mask(_key(implementation), (300, width), 1 << (bits - 1), bits).shape == (300, width)


def test_masks_of_16_bits_are_those_that_earlier_runs_drew():
    """Each half of a word decides an element; a run that goes on must draw them again."""
    word = np.asarray(jax.random.bits(_key("rbg"), (3, 4), jnp.uint32))
    halves = np.concatenate([word & 0xFFFF, word >> 16], axis=-1)[:, :7]
    np.testing.assert_array_equal(keep_mask(_key("rbg"), (3, 7), 6554), halves >= 6554)


def test_kept_elements_are_scaled_and_the_mean_stays():
    x = jnp.full((400, 250), 2.0)
    y = np.asarray(dropout(x, 0.25, _key("threefry2x32")))
    assert set(np.unique(y)) == {0.0, np.float32(2 / 0.75)}
    np.testing.assert_allclose(y.mean(), 2.0, rtol=0.01)


def test_the_scale_follows_the_rate_as_rounded():
    x = jnp.full((400, 256), 2.0)
    for bits, threshold in ((8, 26), (16, 6554)):
        y = np.asarray(dropout(x, 0.1, _key("rbg"), bits))
        levels = 1 << bits
        assert set(np.unique(y)) == {0.0, np.float32(2 * np.float32(levels / (levels - threshold)))}
        np.testing.assert_allclose(y.mean(), 2.0, rtol=0.01)


def test_the_hardwares_generator_takes_8_bits_where_they_round_the_rate_by_little():
    def scale(implementation: str, rate: float) -> float:
        return kept(_key(implementation), (4, 4), rate, AUTO_BITS)[1]

    assert scale("rbg", 0.1) == 256 / 230
    assert scale("threefry2x32", 0.1) == LEVELS / (LEVELS - 6554)
    assert scale("rbg", 0.01) == LEVELS / (LEVELS - 655)
    assert scale("rbg", 0.999) == LEVELS / (LEVELS - 65470)


@pytest.mark.parametrize("bits", [AUTO_BITS, 8, 16])
@pytest.mark.parametrize("implementation", GENERATORS)
def test_no_rate_below_1_is_rounded_to_1(implementation: str, bits: int):
    keep, scale = kept(_key(implementation), (4, 4), 1 - 1e-9, bits)
    assert keep is not None and scale == 1 << (bits or 16)


def test_without_a_key_or_a_rate_nothing_is_dropped():
    x = jnp.ones((3, 4))
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, _key("threefry2x32")) is x


def test_another_key_gives_another_mask():
    first, second = (keep_mask(_key("threefry2x32", seed), (16, 64), LEVELS // 2) for seed in (0, 1))
    assert 0.4 < np.mean(first != second) < 0.6


def test_the_mask_is_the_same_on_one_device_and_on_a_mesh():
    mesh = make_mesh(MeshConfig(data=4, tensor=2))

    def draw(key: jax.Array) -> jax.Array:
        return keep_mask(key, (8, 4, 16, 16), LEVELS // 10)

    spread = jax.jit(draw, out_shardings=sharding(mesh, ("batch", "act_heads", None, None)))
    np.testing.assert_array_equal(spread(_key("threefry2x32")), draw(_key("threefry2x32")))
    hlo = spread.lower(_key("threefry2x32")).compile().as_text()
    assert "all-gather" not in hlo and "u32[8,4,16,4]" not in hlo, "a device draws more than its own share"


@pytest.mark.parametrize("mesh_config", [MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=4, tensor=2)])
def test_with_the_hardware_generator_a_device_draws_its_own_rows_only(mesh_config: MeshConfig):
    mesh = make_mesh(mesh_config)

    def draw(key: jax.Array) -> jax.Array:
        return keep_mask(key, (8, 4, 16, 16), LEVELS // 2)

    with jax.set_mesh(mesh):
        spread = jax.jit(draw, out_shardings=sharding(mesh, ("batch", "act_heads", None, None)))
        keep = np.asarray(spread(_key("rbg")))
        hlo = spread.lower(_key("rbg")).compile().as_text()
    assert "u32[2,4,16,8]" in hlo and "u32[8,4,16,8]" not in hlo
    shares = keep.reshape(4, -1)
    assert np.abs(np.corrcoef(shares) - np.eye(4)).max() < 5 / np.sqrt(shares.shape[1])
    np.testing.assert_allclose(keep.mean(), 0.5, atol=0.05)
