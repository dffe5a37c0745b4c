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


AS_USERS = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
"""XLA's defaults, which tests/conftest.py has JAX change."""


def jit_as_users(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` as users have it, without the fixture: where a file has one program in a few compiled so."""
    emitters = EMITTERS if version("jaxlib").startswith("0.10.") else {}
    return jax.jit(function, compiler_options={**AS_USERS, **emitters})
