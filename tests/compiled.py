"""Programs compiled as users have them, where tests/conftest.py has programs compiled fast."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax

EMITTERS = {"xla_cpu_use_fusion_emitters": True}
"""XLA's default; the older emitters round exp, erf and the like a little differently."""
AS_USERS = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
"""XLA's defaults, which tests/conftest.py has JAX change."""


def jit_as_users(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` as users have it: for comparisons that leave little room, and for one program of each kind."""
    emitters = EMITTERS if version("jaxlib").startswith("0.10.") else {}
    return jax.jit(function, compiler_options={**AS_USERS, **emitters}, **options)
