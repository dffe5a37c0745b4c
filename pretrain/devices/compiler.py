"""Compiling a step with the options of XLA's compiler that the program sets itself, by platform."""

import logging
import os
import re

import jax

logger = logging.getLogger(__name__)

OPTIONS = {"xla_tpu_input_conv_multi_users": "true"}
"""What shortens a step on a TPU by the compiler's estimate; no option has been measured on one (see RESULTS.md)."""
WITHOUT_ROTATION = {
    "xla_tpu_enable_dot_strength_reduction": "false",
    "xla_tpu_move_dot_parameters_to_rhs": "true",
}
"""What does so for BERT and RoBERTa. ModernBERT, which rotates queries and keys, takes 14% longer by the two."""
VARIABLES = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")
"""Where a user sets such options; those are left to him."""
_UNKNOWN = re.compile(r"No such compile option: '(\w+)'")


def compile_step(lowered: jax.stages.Lowered, platform: str, is_rotary: bool) -> jax.stages.Compiled:
    """Compile a step with the options of its platform.

    Options that the compiler does not know, or that the user has set by LIBTPU_INIT_ARGS or XLA_FLAGS, are left out.

    Args:
      lowered: the step.
      platform: where it runs: cpu, gpu or tpu.
      is_rotary: whether its network rotates queries and keys.

    Raises:
      jax.errors.JaxRuntimeError: it does not compile, for another reason.
    """
    wanted = OPTIONS if is_rotary else OPTIONS | WITHOUT_ROTATION
    theirs = " ".join(os.environ.get(variable, "") for variable in VARIABLES)
    options: dict[str, str | bool] = {
        name: value for name, value in wanted.items() if platform == "tpu" and name not in theirs
    }
    while options:
        try:
            return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            unknown = _UNKNOWN.search(str(error))
            if unknown is None or options.pop(unknown[1], None) is None:
                raise
            logger.warning("this compiler has no option %s; the step is compiled without it", unknown[1])
    return lowered.compile()
