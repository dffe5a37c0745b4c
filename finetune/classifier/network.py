"""A classifier of texts or tokens: an encoder and the head of its family, as pure functions of a dict of arrays."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from finetune.classifier.heads import CLS, ClassificationHead, HeadConfig, classifier_head
from finetune.kinds import CLASSES
from finetune.kinds.kind import Kind
from pretrain.models import Encoder, EncoderConfig, Params, build_encoder, module_shapes
from pretrain.models.attention import NOTHING_KNOWN, Use
from pretrain.models.tensor_names import Tensor, encoder_tensors, tensors

# Folded into a row's dropout key for the head; the encoder folds in 0 .. L.
_HEAD = 1 << 20


@dataclass(frozen=True)
class Classifier:
    """An encoder with the head of transformers' class for its kind of task: functions of `params`.

    `params` is a nested dict of float32 arrays: the encoder's parts `embeddings`, `layers` (stacked, [L, ...]) and,
    where the family has them, `final` and `shared`; and `head`. Nothing is kept between calls, so that a population of
    models is `jax.vmap` over params.
    """

    encoder: Encoder
    head_config: HeadConfig
    labels: int
    """C, how many logits a text or token has: classes, or 1 for a score."""
    head: nnx.GraphDef[Any] | None
    """None of an embedder."""
    kind: Kind = CLASSES
    """What its answers are."""

    @property
    def token_types(self) -> int:
        """How many token types the encoder tells apart; 0 where it has none."""
        return self.encoder.config.type_vocab_size

    def init_head(self, key: Key[Array, ""]) -> Params:
        """A fresh head as transformers draws it: normal kernels, zero biases."""
        return module_shapes.pure(
            ClassificationHead(nnx.Rngs(key), self.encoder.config, self.head_config, self.labels)
        )

    def modules(self) -> dict[str, nnx.Module]:
        """The parts with shapes for arrays: a single layer for all of them."""
        head = _abstract_head(self.encoder.config, self.head_config, self.labels)
        return self.encoder.modules() | {"head": head}

    def shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The tree of `params` with a shape and type at each leaf."""
        key = jax.random.key(0)
        return self.encoder.shapes() | {"head": jax.eval_shape(self.init_head, key)}

    def logical_axes(self) -> dict[str, Any]:
        """The tree of `params` with the logical axes of each array at its leaves (see `pretrain.devices.mesh`)."""
        return module_shapes.logical_axes(self.modules())

    def decay_mask(self) -> dict[str, Any]:
        """The tree of `params` with True where weight decay applies: kernels and embeddings, not biases and norms."""
        return module_shapes.decay_mask(self.modules())

    def layer_depths(self) -> dict[str, Any]:
        """The tree of `params` with the depth of each array, for learning rates that fall from the head down.

        0 for embeddings and what all layers read, L + 1 for what follows the last layer and the head; for the stacked
        layers an array 1 .. L of shape [L, 1, ...], which broadcasts against them. Params that several layers share
        have the depth of the last of these.
        """
        L, sources = self.encoder.config.num_hidden_layers, self.encoder.config.layer_sources
        last = np.array([L - sources[::-1].index(place) for place in range(max(sources) + 1)], np.int32)

        def depth(part: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
            if part == module_shapes.LAYERS:
                return last.reshape(-1, *(1,) * (len(leaf.shape) - 1))
            return np.array(0 if part in ("embeddings", "shared") else L + 1, np.int32)

        return {
            part: jax.tree.map(lambda leaf, part=part: depth(part, leaf), tree)
            for part, tree in self.shapes().items()
        }

    def tensors(self) -> list[Tensor]:
        """Every tensor of it, as transformers' class has them."""
        names = classifier_head(self.encoder.config, self.kind.head).names
        head = tensors({"head": self.modules()["head"]}, 0, names.__getitem__)
        return [*encoder_tensors(self.encoder), *head]

    def logits(
        self,
        params: Params,
        tokens: Int[Array, "B S"],
        segments: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"] | None = None,
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B ... C"]:
        """Logits of texts [B, C] or tokens [B, S, C] in float32: one for each class, before softmax, or a score.

        Args:
          params: as described above.
          tokens: token ids, special tokens included, one text or pair a row.
          segments: 1 for tokens, 0 for padding.
          positions: from 0 in each row.
          token_types: token-type ids, passed over by families that have none; None is type 0 throughout.
          dropout_key: a typed key of any generator; None runs without dropout (evaluation).
        """
        first = 1 if self.head_config.pooling == CLS else None
        hidden = self.encoder.encode(
            params, tokens, segments, positions, token_types, dropout_key=dropout_key, first=first
        )
        assert self.head is not None
        head_key = None if dropout_key is None else jax.random.fold_in(dropout_key, _HEAD)
        return nnx.merge(self.head, params["head"])(hidden, segments, head_key)


def build_classifier(
    config: EncoderConfig,
    head: HeadConfig,
    labels: int,
    *,
    dtype: str = "float32",
    use: Use = NOTHING_KNOWN,
    kind: Kind = CLASSES,
) -> Classifier:
    """The classifier of an encoder's and a head's config.

    Args:
      config: the encoder's sizes and how to run it.
      head: what the head is like.
      labels: C, how many logits it gives; 1 for regression.
      dtype: compute type, float32 or bfloat16; params are float32.
      use: what the run asks of the attention kernel.
      kind: what its answers are; the head is one of tokens where they have answers.

    Raises:
      UserError: an attention kernel that cannot run here.
    """
    graph = nnx.split(_abstract_head(config, head, labels))[0]
    return Classifier(build_encoder(config, dtype=dtype, use=use), head, labels, graph, kind)


@functools.lru_cache(maxsize=32)
def _abstract_head(config: EncoderConfig, head: HeadConfig, labels: int) -> nnx.Module:
    return module_shapes.abstract({"head": lambda: ClassificationHead(nnx.Rngs(0), config, head, labels)})[
        "head"
    ]
