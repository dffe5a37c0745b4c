"""Which tensor of a transformers state dict is which of our params, and how the two are laid out.

PyTorch keeps a linear map as [outputs, inputs], one tensor a layer. Ours are [L, inputs..., outputs...], heads apart.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from data.errors import UserError
from pretrain.models.config import EncoderConfig
from pretrain.models.model import Params, build

logger = logging.getLogger(__name__)

# What other heads and old releases leave in checkpoints of these families, and this network has no use for.
UNUSED = ("pooler.", "position_ids", "token_type_ids", "seq_relationship.", "classifier.", "qa_outputs.")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a state dict and where it lives in params."""

    name: str
    """Its name in the state dict of transformers' ...ForMaskedLM."""
    shape: tuple[int, ...]
    """Its shape there: [outputs, inputs] for a linear map."""
    path: tuple[str, ...]
    """Its path in params."""
    layer: int | None = None
    """Its index on the leading axis, where params are stacked."""

    @property
    def is_linear(self) -> bool:
        """Whether it is a linear map, which params hold transposed."""
        return self.path[-1] == "kernel"


def tensors(config: EncoderConfig) -> list[Tensor]:
    """Every tensor of the network, under the name that transformers gives it."""
    return [*_encoder_tensors(config), *_head_tensors(config)]


def _encoder_tensors(config: EncoderConfig) -> Iterator[Tensor]:
    base = _base(config)
    V, D, F = config.vocab_size, config.hidden_size, config.intermediate_size
    rows = {"word": V, "position": config.max_position_embeddings, "token_type": config.type_vocab_size}
    for name, count in rows.items():
        yield Tensor(f"{base}.embeddings.{name}_embeddings.weight", (count, D), ("embeddings", name))
    yield from _norm(f"{base}.embeddings.LayerNorm", D, ("embeddings", "norm"))
    for index in range(config.num_hidden_layers):
        layer = f"{base}.encoder.layer.{index}"
        for name in ("query", "key", "value"):
            yield from _linear(f"{layer}.attention.self.{name}", (D, D), ("layers", "attention", name), index)
        yield from _linear(
            f"{layer}.attention.output.dense", (D, D), ("layers", "attention", "output"), index
        )
        yield from _norm(f"{layer}.attention.output.LayerNorm", D, ("layers", "attention_norm"), index)
        yield from _linear(f"{layer}.intermediate.dense", (F, D), ("layers", "up"), index)
        yield from _linear(f"{layer}.output.dense", (D, F), ("layers", "down"), index)
        yield from _norm(f"{layer}.output.LayerNorm", D, ("layers", "feed_forward_norm"), index)


def _head_tensors(config: EncoderConfig) -> list[Tensor]:
    """The tensors of the masked-language-model head."""
    V, D, head = config.vocab_size, config.hidden_size, _head(config)
    dense, norm = ("dense", "layer_norm") if config.is_roberta else ("transform.dense", "transform.LayerNorm")
    found = [
        *_linear(f"{head}.{dense}", (D, D), ("head", "dense")),
        *_norm(f"{head}.{norm}", D, ("head", "norm")),
        Tensor(f"{head}.bias", (V,), ("head", "bias")),
    ]
    if not config.tie_word_embeddings:
        found.append(Tensor(f"{head}.decoder.weight", (V, D), ("head", "decoder")))
    return found


def _linear(
    name: str, shape: tuple[int, int], path: tuple[str, ...], layer: int | None = None
) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", shape, (*path, "kernel"), layer)
    yield Tensor(f"{name}.bias", shape[:1], (*path, "bias"), layer)


def _norm(name: str, width: int, path: tuple[str, ...], layer: int | None = None) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (width,), (*path, "scale"), layer)
    yield Tensor(f"{name}.bias", (width,), (*path, "bias"), layer)


def _base(config: EncoderConfig) -> str:
    return "roberta" if config.is_roberta else "bert"


def _head(config: EncoderConfig) -> str:
    return "lm_head" if config.is_roberta else "cls.predictions"


def to_state_dict(config: EncoderConfig, params: Params) -> dict[str, np.ndarray]:
    """The state dict of transformers' ...ForMaskedLM with these params (or gradients, or any tree of that shape).

    An untied head's bias goes under both of its names: transformers then applies `decoder.bias` and still has `bias`.
    """
    state = {}
    for tensor in tensors(config):
        array = np.asarray(_at(params, tensor))
        array = array.reshape(tensor.shape[::-1]).T if tensor.is_linear else array.reshape(tensor.shape)
        state[tensor.name] = np.ascontiguousarray(array)
    if not config.tie_word_embeddings:
        state[f"{_head(config)}.decoder.bias"] = state[f"{_head(config)}.bias"].copy()
    return state


def from_state_dict(
    config: EncoderConfig, state: Mapping[str, np.ndarray], where: str, *, seed: int = 0
) -> Params:
    """Params (float32, numpy) of a state dict of these families.

    The encoder's prefix may be missing (a bare ...Model), layer norms may be called gamma and beta (old releases), and
    tensors of other heads are passed over.

    Args:
      config: the network.
      state: names to arrays.
      where: the file or folder, for messages.
      seed: of the head that is made, with a warning, where the state dict has no part of one.

    Raises:
      UserError: a tensor is missing, unknown, or not of the shape that the config gives it; it is named.
    """
    state = {_current_name(config, name): array for name, array in state.items()}
    bias, decoder_bias = f"{_head(config)}.bias", f"{_head(config)}.decoder.bias"
    if decoder_bias in state and (bias not in state or not config.tie_word_embeddings):
        state[bias] = state[decoder_bias]
    has_head = any(name.startswith(f"{_head(config)}.") for name in state)
    wanted = tensors(config) if has_head else list(_encoder_tensors(config))
    _check_names(config, state, wanted, where)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), _shapes(config))
    for tensor in wanted:
        array = state[tensor.name]
        if array.shape != tensor.shape:
            raise UserError(
                f"{where}: {tensor.name} has shape {list(array.shape)}, but by its config.json"
                f" it is {list(tensor.shape)}"
            )
        target = _at(params, tensor)
        target[...] = (array.T if tensor.is_linear else array).reshape(target.shape)
    if not has_head:
        logger.warning("%s has no masked-language-model head; a fresh one is made", where)
        params["head"] = _fresh_head(config, seed)
    return params


def _fresh_head(config: EncoderConfig, seed: int) -> Params:
    """The head that a fresh model of this seed has; under jit the rest of that model is never computed."""
    model = build(dataclasses.replace(config, attention="xla"))
    head = jax.jit(lambda key: model.init(key)["head"])(jax.random.key(seed))
    return jax.tree.map(np.asarray, head)


def _at(params: Params, tensor: Tensor) -> Any:
    """The array in params that a tensor is (a view into the stack, where params are stacked)."""
    node: Any = params
    for part in tensor.path:
        node = node[part]
    return node if tensor.layer is None else node[tensor.layer]


def _shapes(config: EncoderConfig) -> Any:
    return build(dataclasses.replace(config, attention="xla")).shapes()


def _current_name(config: EncoderConfig, name: str) -> str:
    """The name that transformers gives a tensor today."""
    if name.endswith(".gamma"):
        name = f"{name.removesuffix('.gamma')}.weight"
    if name.endswith(".beta"):
        name = f"{name.removesuffix('.beta')}.bias"
    bare = name.startswith(("embeddings.", "encoder.", "pooler."))
    return f"{_base(config)}.{name}" if bare else name


def _check_names(config: EncoderConfig, state: Mapping[str, Any], wanted: list[Tensor], where: str) -> None:
    names = {tensor.name for tensor in wanted}
    missing = sorted(names - set(state))
    if missing:
        raise UserError(
            f"{where} lacks {_some(missing)}, which model_type {config.model_type!r} has by its config.json"
        )
    tied = {f"{_head(config)}.decoder.weight", f"{_head(config)}.decoder.bias"}
    unknown = sorted(name for name in set(state) - names - tied if not any(part in name for part in UNUSED))
    if unknown:
        raise UserError(
            f"{where} holds {_some(unknown)}, which model_type {config.model_type!r} does not have by its config.json"
        )


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more tensors"
