"""Write an embedder as model.onnx (hidden states of tokens, vectors of texts), and run this file with onnxruntime."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from base.errors import UserError
from finetune import onnx as of_classifiers
from finetune.classifier.embedder_folder import Pooled, embedder_files, pooled_of
from finetune.onnx import EXAMPLE_LENGTH, OnnxClassifier
from finetune.texts.batching import evaluation_batches
from finetune.texts.encoding import Encoded
from pretrain.models.huggingface import CONFIG

OUTPUTS = ("last_hidden_state", "sentence_embedding")
"""The names that optimum and sentence-transformers look for."""


def export_embedder(model_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write model.onnx for the folder of an embedder. The file appears only when it is complete.

    The inputs are those of `finetune.onnx.export_onnx`. The outputs are `last_hidden_state`, float32
    [batch, sequence, D], and `sentence_embedding`, float32 [batch, D], pooled and of norm 1 as the folder's
    modules.json says; without that file, their mean, of norm 1. A model_quantized.onnx of an earlier model.onnx is
    removed.

    Args:
      model_dir: a local folder that AutoModel loads.
      out: the folder to write to; None is `model_dir`.

    Returns:
      The path of the file.

    Raises:
      UserError: the extra `onnx` is not installed, the folder has no encoder or a damaged one, or the disk is full.
    """
    for library in ("torch", "onnx", "onnxscript"):
        of_classifiers._need(library)
    folder = Path(model_dir)
    place = folder if out is None else Path(out)
    model = _with_vectors(_load(folder), pooled_of(embedder_files(str(folder)), str(folder)))
    return of_classifiers.write_whole(place, lambda file: _export(model, file))


def _load(folder: Path) -> Any:
    """The encoder of a folder as a torch module in float32; its pooler, where its family has one, is not used."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} has no {CONFIG}; name the folder of an embedder")
    import torch
    import transformers

    with of_classifiers._quiet():
        try:
            model, info = transformers.AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation="eager",
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # JSON, safetensors, torch and transformers have no common error class
            raise UserError(
                f"{folder} is not a model that transformers loads: {of_classifiers._one_line(error)}"
            ) from error
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith("pooler.")):
        raise UserError(f"{folder} lacks weights of its network: {', '.join(missing[:3])}")
    return model.eval()


def _export(model: Any, file: Path) -> None:
    """Write a torch module as ONNX. The example input has padding, so that the trace keeps the attention mask."""
    import torch

    longest = of_classifiers._longest(model.config)
    ids = torch.zeros((2, min(EXAMPLE_LENGTH, longest)), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, -1] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=longest)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with of_classifiers._quiet(), torch.no_grad():
        torch.onnx.export(
            model,
            (),
            file,
            kwargs=inputs,
            input_names=list(inputs),
            output_names=list(OUTPUTS),
            dynamic_shapes={name: {0: batch, 1: sequence} for name in inputs},
            external_data=size > of_classifiers.MOST_BYTES_IN_ONE_FILE,
            dynamo=True,
            verbose=False,
        )
    of_classifiers._remove_traces(file)


def _with_vectors(encoder: Any, pooled: Pooled) -> Any:
    """A torch module that gives hidden states and vectors of texts."""
    import torch

    class WithVectors(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.config = encoder, encoder.config

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> tuple[Any, Any]:
            types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            hidden = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, **types
            ).last_hidden_state
            inside = attention_mask.unsqueeze(-1).to(hidden.dtype)
            if pooled.pooling == "cls":
                vectors = hidden[:, 0]
            else:
                vectors = (hidden * inside).sum(1) / inside.sum(1).clamp(min=1.0)
            if pooled.normalized:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
            return hidden, vectors

    return WithVectors().eval()


class OnnxEmbedder:
    """The embedder of a folder's model.onnx, run on batches of texts with similar lengths."""

    def __init__(
        self, folder: epath.PathLike, *, lengths: Sequence[int], batch: int, temperature: float = 1.0
    ):
        """Open the file, on a file system.

        Args:
          folder: the folder.
          lengths: row lengths that batches are padded to.
          batch: examples of a batch.
          temperature: see `finetune.classifier.embedder.Embedder`.

        Raises:
          UserError: no such file, a damaged one, or onnxruntime is not installed.
        """
        self._session = OnnxClassifier(folder)._session
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._lengths, self._batch, self._scale = tuple(lengths), batch, temperature**-0.5

    @property
    def width(self) -> int:
        """D, the length of a vector."""
        return int(self._session.get_outputs()[1].shape[-1])

    def __call__(self, encoded: Encoded) -> Float[np.ndarray, "n C"]:
        """The vectors of the T texts of each example, float32, C = T x D."""
        found = np.zeros((len(encoded), encoded.texts * self.width), np.float32)
        for chosen, rows in evaluation_batches(encoded, self._lengths, self._batch):
            arrays = {
                "input_ids": rows.tokens,
                "attention_mask": rows.segments,
                "token_type_ids": rows.token_types,
            }
            feed = {
                name: arrays[name][: len(chosen)].reshape(-1, rows.tokens.shape[-1]).astype(np.int64)
                for name in self._inputs
            }
            vectors = self._session.run(["sentence_embedding"], feed)[0]
            found[chosen] = vectors.reshape(len(chosen), -1) * self._scale
        return found
