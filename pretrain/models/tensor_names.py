"""The mapping between the tensors of a transformers state dict and our params: names and layouts.

PyTorch keeps a linear map as [outputs, inputs], one tensor a layer. Ours are [L, inputs..., outputs...], heads apart.
A family's folder in `pretrain.models.families` has the names of the tensors. The modules have their shapes.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from base.errors import UserError
from pretrain.models import module_shapes
from pretrain.models.config import EncoderConfig
from pretrain.models.encoder import Encoder
from pretrain.models.families.family import Family
from pretrain.models.model import Model, build
from pretrain.models.module_shapes import LAYERS, Params
from pretrain.models.vocabulary import with_rows

logger = logging.getLogger(__name__)

BUFFERS = ("position_ids", "token_type_ids", "inv_freq")
"""Buffers that some releases of transformers store in a state dict with the parameters."""
# Tensors of other heads in checkpoints of the families that can be pretrained. A masked language model needs none.
UNUSED = (
    *BUFFERS,
    "pooler.",
    "seq_relationship.",
    "classifier.",
    "qa_outputs.",
    "discriminator_predictions.",
)


@dataclass(frozen=True)
class Tensor:
    """One tensor of a state dict and where it lives in params."""

    name: str
    """Its name in the state dict."""
    shape: tuple[int, ...]
    """Its shape there: [outputs, inputs] for a linear map."""
    path: tuple[str, ...]
    """Its path in params."""
    is_linear: bool
    """Whether it is a linear map, which params hold transposed."""
    layer: int | None = None
    """Its index on the leading axis, where params are stacked."""

    def of(self, params: Params) -> np.ndarray:
        """The tensor from params, in the layout of the state dict."""
        array = np.asarray(self._held(params))
        shaped = array.reshape(self.shape[::-1]).T if self.is_linear else array.reshape(self.shape)
        return np.ascontiguousarray(shaped)

    def put(self, array: np.ndarray, params: Params) -> None:
        """Write the tensor, given in the layout of the state dict, into params of numpy arrays."""
        held = self._held(params)
        held[...] = (array.T if self.is_linear else array).reshape(held.shape)

    def _held(self, params: Params) -> Any:
        """The array in params (a view into the stack, where params are stacked)."""
        node: Any = params
        for part in self.path:
            node = node[part]
        return node if self.layer is None else node[self.layer]


def tensors(modules: Mapping[str, nnx.Module], layers: int, name_of: Callable[[str], str]) -> list[Tensor]:
    """Every tensor of a network.

    Args:
      modules: its parts, with shapes for arrays.
      layers: how many layers are stacked in the part `layers`.
      name_of: what a state dict calls the module at a path ("layers/up"), with `{}` for the layer's number.
    """
    found = []
    for part, module in modules.items():
        mapped = dict(_leaves(module_shapes.metadata(module, "inputs")))
        for path, leaf in _leaves(module_shapes.pure(module)):
            *parents, last = path
            # A table is a parameter itself, and a module with a weight in PyTorch.
            owner, kind = (parents, last) if last in _KINDS else ([*parents, last], "table")
            name = f"{name_of('/'.join((part, *owner)))}.{_KINDS[kind]}"
            shape = _shape(leaf.shape, kind, mapped[path])
            found += [
                Tensor(name.format(layer), shape, (part, *path), kind == "kernel", layer)
                for layer in (range(layers) if part == LAYERS else [None])
            ]
    return found


_KINDS = {"kernel": "weight", "scale": "weight", "table": "weight", "filters": "weight", "bias": "bias"}


def _leaves(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield tuple(entry.key for entry in path), leaf


def _shape(shape: Sequence[int], kind: str, inputs: int) -> tuple[int, ...]:
    """The shape of one of our arrays in a state dict. A kernel has `inputs` leading input axes."""
    if kind == "kernel":
        return math.prod(shape[inputs:]), math.prod(shape[:inputs])
    return (math.prod(shape),) if kind == "bias" else tuple(shape)


def encoder_tensors(encoder: Encoder) -> list[Tensor]:
    """Every tensor of an encoder, under the name it has in transformers' classes for tasks."""
    family = encoder.config.family
    found = tensors(encoder.modules(), encoder.config.stacked_layers, family.full_name)
    return [
        tensor
        for tensor in found
        if tensor.layer != 0 or tensor.path[:-1] not in _paths(family.first_layer_lacks)
    ]


def _paths(modules: Iterable[str]) -> set[tuple[str, ...]]:
    return {tuple(module.split("/")) for module in modules}


def head_tensors(model: Model) -> list[Tensor]:
    """The tensors of the masked-language-model head."""
    family = model.config.family
    return tensors({"head": model.modules()["head"]}, 0, family.full_name)


def to_state_dict(config: EncoderConfig, params: Params) -> dict[str, np.ndarray]:
    """The state dict of transformers' ...ForMaskedLM with these params (or gradients, or any tree of that shape).

    The vocabulary's padding is left out.
    An untied head's bias goes under both of its names: transformers then applies `decoder.bias` and still has `bias`.
    """
    params = with_rows(config, params, config.vocab_size)
    model, family = _build(dataclasses.replace(config, vocab_multiple=1)), config.family
    found = [*encoder_tensors(model.encoder), *head_tensors(model)]
    state = {tensor.name: tensor.of(params) for tensor in found}
    if not config.tie_word_embeddings and f"{family.head_modules['head']}.bias" in state:
        state[f"{family.decoder}.bias"] = state[f"{family.head_modules['head']}.bias"].copy()
    return state


def from_state_dict(
    config: EncoderConfig, state: Mapping[str, np.ndarray], where: str, *, seed: int = 0
) -> Params:
    """Params (float32, numpy) of a state dict of the families that pretrain.

    The encoder's prefix may be missing (a bare ...Model), layer norms may be called gamma and beta (old releases), a
    tied tensor may have either of its names, and tensors of other heads are passed over.

    Args:
      config: the network.
      state: names to arrays.
      where: the file or folder, for messages.
      seed: of the head that is made, with a warning, where the state dict has no part of one.

    Raises:
      UserError: a tensor is missing, unknown, or not of the shape that the config gives it; it is named.
    """
    model, family = _build(dataclasses.replace(config, vocab_multiple=1)), config.family
    state = with_current_names(config, state)
    head, decoder = family.head_modules["head"], family.decoder
    bias, decoder_bias = f"{head}.bias", f"{decoder}.bias"
    if decoder_bias in state:  # where both are there and differ, transformers applies the decoder's
        state[bias] = state[decoder_bias]
    of_head = {tensor.name for tensor in head_tensors(model)}
    # If heads of several tasks have tensors in common, their other tensors identify the head.
    telling = {name for name in of_head if name.startswith(f"{head}.")} or of_head
    has_head = not of_head or any(name.startswith(f"{head}.") or name in telling for name in state)
    wanted = encoder_tensors(model.encoder) + (head_tensors(model) if has_head else [])
    passed = {f"{decoder}.weight", decoder_bias} | (set() if has_head else of_head)
    unused = (*UNUSED, *family.ignored)
    others = [name for name in state if name not in passed and not any(part in name for part in unused)]
    check(wanted, state, config, where, known=others)
    params = empty_params(model.shapes())
    fill(params, wanted, state)
    if not has_head:
        logger.warning("%s has no masked-language-model head; a fresh one is made", where)
        params["head"] = _fresh_head(model, seed)
    return with_rows(config, params, config.vocab_rows)


def empty_params(shapes: Any) -> Params:
    """Numpy arrays of these shapes to be filled: zeros, and ones for a scale, for which there may be no tensor."""

    def empty(path: Any, leaf: Any) -> np.ndarray:
        return np.full(leaf.shape, float(path[-1].key == "scale"), np.float32)

    params: Params = jax.tree_util.tree_map_with_path(empty, shapes)
    return params


def fill(params: Params, wanted: Sequence[Tensor], state: Mapping[str, np.ndarray]) -> None:
    """Write the wanted tensors of a state dict, which `check` has passed, into params of numpy arrays."""
    for tensor in wanted:
        tensor.put(state[tensor.name], params)


def check(
    wanted: Sequence[Tensor],
    state: Mapping[str, np.ndarray],
    config: EncoderConfig,
    where: str,
    *,
    known: Iterable[str] = (),
) -> None:
    """Refuse a state dict that lacks wanted tensors, before any array is made by what its config.json says.

    Args:
      wanted: tensors that must be there.
      state: names to arrays, by transformers' current names.
      config: the network.
      where: the file or folder, for messages.
      known: names in `state` that must all be names of wanted tensors.

    Raises:
      UserError: a tensor is missing, unknown, or not of the shape that the config gives it; it is named.
    """
    names = {tensor.name for tensor in wanted}
    if missing := sorted(names - set(state)):
        raise UserError(
            f"{where} lacks {_some(missing)}, which model_type {config.model_type!r} has by its config.json"
        )
    if unknown := sorted(set(known) - names):
        raise UserError(
            f"{where} holds {_some(unknown)}, which model_type {config.model_type!r} does not have by its config.json"
        )
    for tensor in wanted:
        array = state[tensor.name]
        if array.shape != tensor.shape:
            raise UserError(
                f"{where}: {tensor.name} has shape {list(array.shape)}, but by its config.json"
                f" it is {list(tensor.shape)}"
            )


def as_stored(config: EncoderConfig, state: Mapping[str, np.ndarray], where: str) -> EncoderConfig:
    """The network with tie_word_embeddings as the tensors of a state dict have it, not as its config.json says.

    Where the word embedding and the head's output matrix are both stored and differ, transformers does not tie them.

    Args:
      config: the network by its config.json.
      state: names to arrays.
      where: the file or folder, for the warning.
    """
    word, decoder = _tied_names(config.family)
    state = with_current_names(config, state)
    if not config.tie_word_embeddings or not {word, decoder} <= set(state):
        return config
    if np.array_equal(state[word], state[decoder]):
        return config
    logger.warning(
        "%s: tie_word_embeddings is true, but %s and %s differ; they are read as two", where, word, decoder
    )
    return dataclasses.replace(config, tie_word_embeddings=False)


def with_current_names(config: EncoderConfig, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict with the names that transformers' classes for tasks give its tensors today.

    If a tied word embedding is stored only under the output matrix's name, the result has it under its own name too.
    """
    family = config.family
    parts = {name.split(".")[0] for name in (*family.modules.values(), "pooler")}
    if family.classifier:  # its own names are whole
        parts -= {name.split(".")[0] for name in family.classifier.names.values()}

    def current(name: str) -> str:
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return f"{family.base}.{name}" if name.split(".")[0] in parts else name

    named = {current(name): array for name, array in state.items()}
    word, decoder = _tied_names(family)
    if config.tie_word_embeddings and word not in named and decoder in named:
        named[word] = named[decoder]
    return named


def _tied_names(family: Family) -> tuple[str, str]:
    """The names of the word embedding and of the output matrix that may be tied to it."""
    return f"{family.full_name('embeddings/word')}.weight", f"{family.decoder}.weight"


def _fresh_head(model: Model, seed: int) -> Params:
    """The head that a fresh model of this seed has; under jit the rest of that model is never computed."""
    head = jax.jit(lambda key: model.init(key)["head"])(jax.random.key(seed))
    fresh: Params = jax.tree.map(np.asarray, head)
    return fresh


def _build(config: EncoderConfig) -> Model:
    """The network described, whatever kernel it would run."""
    return build(dataclasses.replace(config, attention="xla"))


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more tensors"
