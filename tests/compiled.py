"""Programs compiled as users have them, where tests/conftest.py has programs compiled fast."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax

EMITTERS = {"xla_cpu_use_fusion_emitters": True}
"""XLA's default; the older emitters round exp, erf and the like a little differently."""


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` with XLA's own emitters of fused loops; for the rest take the fixture `optimized`."""
    options = EMITTERS if version("jaxlib").startswith("0.10.") else None
    return jax.jit(function, compiler_options=options)
