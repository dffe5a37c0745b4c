"""Compiling a step with the options of XLA's compiler that the program sets itself, by platform."""

import logging
import re

import jax

logger = logging.getLogger(__name__)

OPTIONS = {
    "tpu": {
        "xla_tpu_input_conv_multi_users": "true",
        "xla_tpu_enable_dot_strength_reduction": "false",
        "xla_tpu_move_dot_parameters_to_rhs": "true",
    }
}
"""They take cycles off a step by the compiler's estimate. None is measured on a TPU (benchmarks/RESULTS.md)."""
_UNKNOWN = re.compile(r"No such compile option: '(\w+)'")


def compile_step(lowered: jax.stages.Lowered, platform: str) -> jax.stages.Compiled:
    """Compile a step with the options of its platform. Options that the compiler does not know are left out.

    Args:
      lowered: the step.
      platform: where it runs: cpu, gpu or tpu.

    Raises:
      jax.errors.JaxRuntimeError: it does not compile, for another reason.
    """
    options = dict(OPTIONS.get(platform, {}))
    while options:
        try:
            return lowered.compile(compiler_options=dict(options))
        except jax.errors.JaxRuntimeError as error:
            unknown = _UNKNOWN.search(str(error))
            if unknown is None or options.pop(unknown[1], None) is None:
                raise
            logger.warning("this compiler has no option %s; the step is compiled without it", unknown[1])
    return lowered.compile()
