"""An encoder that gives each text a vector, as pure functions of a dict of arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import Array, Float, Int, Key, PyTree

from base.private_paths import without_places
from finetune.classifier.embedder_folder import Pooled, embedder_files, files, pooled_of
from finetune.classifier.heads import HeadConfig, mean_of_tokens
from finetune.classifier.network import Classifier
from finetune.classifier.pretrained import REPLACED, Start, of_encoder, overridden
from finetune.kinds import EMBEDDING
from pretrain.models import Params, build_encoder
from pretrain.models.attention import NOTHING_KNOWN, Use
from pretrain.models.huggingface import config_dict, read_published, write_config, write_weights
from pretrain.models.tensor_names import (
    Tensor,
    check,
    empty_params,
    encoder_tensors,
    fill,
    with_current_names,
)
from pretrain.runtime.workdir import is_workdir
from pretrain.trained_network import check_weights, trained_network
from tokenizer.load import Loaded

AUTO = "auto"
SMALLEST_NORM = 1e-12
"""Vectors are divided by their norm, or by this number if that is smaller, as in torch."""


@dataclass(frozen=True)
class Embedder(Classifier):
    """An encoder whose hidden states are pooled to a vector of each text. It has no head.

    `params` are those of the encoder. The "logits" of a text are its vector.
    """

    temperature: float = 1.0
    """Vectors are divided by its root, so that dot products are cosines divided by it."""
    normalized: bool = True
    """Whether vectors are brought to the same norm."""

    def init_head(self, key: Key[Array, ""]) -> Params:
        """Nothing."""
        return {}

    def modules(self) -> dict[str, Any]:
        """Those of the encoder."""
        return self.encoder.modules()

    def shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Those of the encoder."""
        return self.encoder.shapes()

    def tensors(self) -> list[Tensor]:
        """Those of the encoder."""
        return encoder_tensors(self.encoder)

    def logits(
        self,
        params: Params,
        tokens: Int[Array, "B S"],
        segments: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"] | None = None,
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B D"]:
        """The vectors of texts, one a row, in float32; the arguments are those of `Classifier.logits`."""
        first = 1 if self.head_config.pooling == "cls" else None
        hidden = self.encoder.encode(
            params, tokens, segments, positions, token_types, dropout_key=dropout_key, first=first
        )
        vectors = hidden[:, 0].astype(jnp.float32) if first else mean_of_tokens(hidden, segments)
        if not self.normalized:
            return vectors
        # The root of a sum that is 0 would have a gradient that is no number.
        norm = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(vectors), axis=1, keepdims=True), SMALLEST_NORM**2))
        return vectors / (norm * self.temperature**0.5)


def load_embedder(
    source: str,
    *,
    pooling: str = AUTO,
    temperature: float | None = None,
    dtype: str = "float32",
    overrides: Mapping[str, Any] | None = None,
    use: Use = NOTHING_KNOWN,
    weights: str = "raw",
) -> tuple[Start, Pooled]:
    """An embedder that starts from a pretrained encoder, or from another embedder.

    Args:
      source: a workdir of pretraining (its newest checkpoint); a folder with config.json and model.safetensors, of any
        class of transformers, or of sentence-transformers; or such a model's hub id.
      pooling: mean or cls; auto is what a folder of sentence-transformers says, else mean.
      temperature: see `Embedder`; None is 1, and vectors have norm 1 unless a folder of sentence-transformers says
        otherwise.
      dtype: compute type, float32 or bfloat16.
      overrides: as for `load_encoder_for_classification`.
      use: what the run asks of the attention kernel.
      weights: of a workdir: "raw", as they were trained, or their "average".

    Returns:
      The embedder, and what the source says of the vectors of texts.

    Raises:
      UserError: nothing there, a damaged file, tensors that do not fit the config, or modules that are not known.
    """
    folder = epath.Path(source).expanduser()
    if is_workdir(folder):
        trained = trained_network(folder, weights=weights)
        found, config, values = Pooled(), trained.encoder, config_dict(trained.encoder)
    else:
        check_weights(weights, source)
        found = pooled_of(embedder_files(source), source)
        published = read_published(source)
        config, values = published.config, published.values
    chosen = found.pooling or "mean" if pooling == AUTO else pooling
    head = HeadConfig("", drops_input=False, dropout=0.0, pooling=chosen)
    config, head = overridden(config, head, overrides or {})
    encoder = build_encoder(config, dtype=dtype, use=use)
    vectors = (1.0, found.normalized) if temperature is None else (temperature, True)
    embedder = Embedder(encoder, head, config.hidden_size, None, EMBEDDING, *vectors)
    if is_workdir(folder):
        params = {part: tree for part, tree in trained.params.items() if part != "head"}
    else:
        state = with_current_names(config, published.state)
        known = of_encoder(state, config.family)
        check(embedder.tensors(), state, config, published.source, known=known)
        params = empty_params(embedder.shapes())
        fill(params, embedder.tensors(), state)
    return Start(embedder, params, frozenset(), values), found


def save_embedder(
    folder: epath.PathLike,
    embedder: Embedder,
    params: Params,
    config: Mapping[str, Any],
    tokenizer: Loaded,
    *,
    max_length: int,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Write a folder that sentence-transformers, AutoModel and AutoTokenizer load; config.json last.

    Args:
      folder: local or gs://, made if need be.
      embedder: the network.
      params: its params, numpy or jax arrays.
      config: the config.json of the checkpoint that it started from.
      tokenizer: to put beside the model, told the model's length.
      max_length: tokens that texts are cut to.
      beside: other files, by name.
    """
    out, encoder = epath.Path(folder), embedder.encoder.config
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out, model_max_length=encoder.max_length)
    told = files(Pooled(embedder.head_config.pooling, max_length=max_length), encoder.hidden_size)
    for name, content in {**told, **(beside or {})}.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    base = f"{encoder.family.base}."
    write_weights(out, {each.name.removeprefix(base): each.of(params) for each in embedder.tensors()})
    passed = (*REPLACED, "problem_type", "id2label", "label2id")
    kept = {name: value for name, value in without_places(config).items() if name not in passed}
    write_config(
        out,
        {
            **kept,
            "architectures": [f"{encoder.family.classes}{EMBEDDING.task_class}"],
            "model_type": encoder.model_type,
            "dtype": "float32",
        },
    )
