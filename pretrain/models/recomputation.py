"""Arrays of the forward pass that the backward pass computes again, by the names of `config.model.remat`.

- `none`: no array. All are kept.
- `attention`: the scores of attention and what is computed of them (Korthikanti et al. 2022, section 5). They are the
  only arrays whose size grows with the square of the row length, and little arithmetic.
- `full`: everything but the input of each layer (Chen et al. 2016).
- `offload`: the same, and the inputs of the layers wait in the memory of the host.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from base.errors import UserError
from pretrain.model_config import REMAT_POLICIES

Function = TypeVar("Function", bound=Callable[..., Array])

NONE, ATTENTION, FULL, OFFLOAD = REMAT_POLICIES
LAYER_INPUT = "layer_input"


def keeps_loop(policy: str) -> bool:
    """Whether a policy needs the loop over the layers.

    If all layers are unrolled, XLA finds the same computation in both passes and keeps the first result (on CPU with
    any value of prevent_cse).
    """
    return policy in (FULL, OFFLOAD)


def check(policy: str, platform: str) -> None:
    """Refuse a policy that a platform does not have.

    Raises:
      UserError: the inputs of layers cannot wait anywhere else, because a CPU's memory is the host's.
    """
    if policy == OFFLOAD and platform == "cpu":
        raise UserError("config.model.remat=offload needs a GPU or a TPU: set config.model.remat=full")


def of_layer(policy: str, layer: Function) -> Function:
    """A layer whose first argument is its input, recomputed as the policy says."""
    if not keeps_loop(policy):
        return layer

    def named(x: Array, *others: object) -> Array:
        return layer(checkpoint_name(x, LAYER_INPUT), *others)

    offload = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[LAYER_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    )
    if policy == OFFLOAD:
        return jax.checkpoint(named, prevent_cse=False, policy=offload)  # type: ignore[return-value]
    return jax.checkpoint(layer, prevent_cse=False)  # type: ignore[return-value]


def of_attention(policy: str, attention: Function, *, unrolled: bool) -> Function:
    """The attention of a layer, a function of arrays, recomputed as the policy says.

    Args:
      policy: see above.
      attention: the function.
      unrolled: whether no loop runs the layers.
    """
    return jax.checkpoint(attention, prevent_cse=unrolled) if policy == ATTENTION else attention  # type: ignore[return-value]
