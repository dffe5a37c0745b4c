"""How near float32 results are to exact ones, where another library's stand beside them.

The order in which numbers are summed depends on the processor, and so do the last digits of a float32 result, ours and
theirs. A difference between the two says little; the distance of each from the same results in float64 says enough.
"""

from collections.abc import Mapping

import numpy as np

STATED = 1e-4
"""How far from exact any array may be: all entries together, of its size; each of them, of the largest."""
FACTOR = 4.0
"""How much farther than theirs ours may be, all arrays together; chance alone makes that 0.4 to 1.8."""
SILENT = ("key.bias", "k_lin.bias", "attn.k.bias")
"""Ends of the names of parameters of which softmax takes no notice: their gradients are zero but for rounding."""
SOMETIMES_SILENT = "key_proj.bias"
"""The same of DeBERTa, whose keys may also meet positions, of which softmax takes notice."""
_NEAREST = 2.0**-24
"""What rounding the exact values to float32 would leave."""


def distance(found: np.ndarray, exact: np.ndarray) -> float:
    """Root mean square of what an array is off by, as a share of that of its exact values."""
    found, exact = np.asarray(found, np.float64), np.asarray(exact, np.float64)
    assert found.shape == exact.shape, f"{found.shape} and {exact.shape}"
    return float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))


def assert_near(ours: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]) -> None:
    """Assert that each array is within what is stated of the exact one, which is not all zeros."""
    assert set(ours) == set(exact)
    for name in exact:
        share = distance(ours[name], exact[name])
        assert share <= STATED, f"{name} is off by {share:.1e} of its size"


def assert_as_near(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]
) -> None:
    """Assert that float32 results are within what is stated, and as near to the exact ones as others are.

    Args:
      ours: arrays by name, in float32.
      theirs: the same of another library, in float32.
      exact: the same in float64; none of them all zeros.
    """
    assert_near(ours, exact)
    assert set(theirs) == set(exact)
    far = {name: distance(ours[name], exact[name]) for name in exact}
    ratios = [far[name] / max(distance(theirs[name], exact[name]), _NEAREST) for name in exact]
    for name in exact:
        entry = np.abs(np.asarray(ours[name], np.float64) - exact[name]).max() / np.abs(exact[name]).max()
        assert entry <= STATED, f"an entry of {name} is off by {entry:.1e} of the largest"
    ratio = float(np.exp(np.mean(np.log(np.maximum(ratios, 0.01)))))
    worst = max(far, key=far.__getitem__)
    assert ratio <= FACTOR, (
        f"{ratio:.1f} times as far from exact as theirs; the farthest: {worst}, {far[worst]:.1e}"
    )


def assert_gradients_as_near(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]
) -> None:
    """The same of a network's gradients (and outputs), by the names of transformers' parameters."""
    silent = {name for name in exact if name.endswith(SILENT)}
    silent |= {
        name for name in exact if name.endswith(SOMETIMES_SILENT) and np.abs(exact[name]).max() < 1e-12
    }
    for name in set(exact) - silent:
        assert np.abs(exact[name]).max() > 1e-4, f"{name} has no gradient to compare"
    assert_as_near(*({name: found[name] for name in set(exact) - silent} for found in (ours, theirs, exact)))
    weights = [exact[name.replace(".bias", ".weight")] for name in silent]
    beside = max((np.sqrt(np.mean(weight**2)) for weight in weights), default=0.0)
    for name in silent:
        assert np.abs(ours[name]).max() <= STATED * beside, f"{name} has a gradient"
