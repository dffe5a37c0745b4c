"""Logits of one trained classifier, from JAX or from its ONNX export, and the facts that are needed to use it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float

from base.errors import UserError
from base.json_files import json_object
from finetune.classifier.network import Classifier
from finetune.config import FinetuneConfig
from finetune.onnx import FILE_NAME, OnnxClassifier, check_installed
from finetune.population.evaluation import Predictor
from finetune.population.state import one_member
from finetune.texts.batching import evaluation_batches
from finetune.texts.encoding import Encoded
from finetune.texts.question_encoding import Answering

FACTS_FILE = "finetune.json"
SHORTEST_ROW = 16

Logits = Callable[[Encoded], Float[np.ndarray, "n C"]]
"""A model as a function of examples. It returns their logits, in the same order."""


@dataclass(frozen=True)
class Facts:
    """What a model's fine-tuning fixed and its config.json has no field for; kept beside it in finetune.json."""

    texts: int = 0
    """1 where its examples were texts, 2 where they were pairs; 0 is not known."""
    max_length: int = 0
    """Tokens of its examples at most; 0 is not known."""
    threshold: float = 0.0
    """The probability from which on an example has a class, where it has any number of them; 0 is not known."""
    stride: int = 0
    """Tokens that windows of a context have in common; 0 is not known, as in the next."""
    longest_answer: int = 0
    """Most tokens of an answer to a question."""
    no_answer: float | None = None
    """By how much the score of no answer must be higher; None: each question has an answer, or it is not known."""

    @property
    def answering(self) -> Answering:
        """How answers to questions are chosen."""
        return Answering(self.stride, self.longest_answer or Answering.longest_answer, self.no_answer)

    def as_json(self) -> bytes:
        """The file."""
        always = ("texts", "max_length")
        values = {
            name: value
            for name, value in asdict(self).items()
            if name in always or value or (name == "no_answer" and value is not None)
        }
        return (json.dumps(values, indent=2) + "\n").encode()

    @classmethod
    def read(cls, folder: epath.Path) -> "Facts":
        """Read the facts of a model's folder. They are unknown if this project did not fine-tune the model.

        Raises:
          UserError: the file is damaged.
        """
        file = folder / FACTS_FILE
        if not file.exists():
            return cls()
        try:
            found = cls(**json_object(file))
            if found.texts not in (0, 1, 2) or type(found.max_length) is not int or found.max_length < 0:
                raise ValueError(f"it has texts={found.texts!r} and max_length={found.max_length!r}")
            if not isinstance(found.threshold, int | float) or not 0 <= found.threshold <= 1:
                raise ValueError(f"it has threshold={found.threshold!r}")
            for name in ("stride", "longest_answer"):
                if type(value := getattr(found, name)) is not int or value < 0:
                    raise ValueError(f"it has {name}={value!r}")
            if not isinstance(found.no_answer, int | float | None):
                raise ValueError(f"it has no_answer={found.no_answer!r}")
            return found
        except (ValueError, TypeError) as error:
            raise UserError(f"{file} is damaged: {error}; remove it, or export the model again") from None


class JaxModel:
    """A classifier and its params, in programs of a few static lengths."""

    def __init__(
        self,
        classifier: Classifier,
        params: Any,
        mesh: Mesh,
        *,
        lengths: Sequence[int],
        batch: int,
        matmul_precision: str = "default",
    ):
        """Take one model's params (numpy arrays) to a mesh of a population of one.

        Args:
          classifier: the network.
          params: what it has learned.
          mesh: the devices, see `finetune.population.state.population_mesh`.
          lengths: row lengths that batches are padded to; each compiles when the first batch needs it.
          batch: rows of a batch.
          matmul_precision: of float32 matrix products.
        """
        self._mesh, self._precision = mesh, matmul_precision
        self._params = one_member(params, classifier, mesh)
        self._predictor = Predictor(classifier, mesh, lengths, batch)

    def __call__(self, encoded: Encoded) -> Float[np.ndarray, "n C"]:
        """Float32 logits of every example, or of its words."""
        with jax.set_mesh(self._mesh), jax.default_matmul_precision(self._precision):
            return self._predictor(self._params, encoded)[0]


class OnnxModel:
    """The model.onnx of a folder, or another file, run on batches of examples with similar lengths."""

    def __init__(self, folder: epath.PathLike, *, lengths: Sequence[int], batch: int, name: str = FILE_NAME):
        """Open the file, on a file system.

        Raises:
          UserError: no such file, a damaged one, or onnxruntime is not installed.
        """
        self._classifier = OnnxClassifier(folder, name)
        self._lengths, self._batch = tuple(lengths), batch

    def __call__(self, encoded: Encoded) -> Float[np.ndarray, "n C"]:
        """Float32 logits of every example, or of its words."""
        found = encoded.empty(self._classifier.labels)
        for chosen, rows in evaluation_batches(encoded, self._lengths, self._batch):
            real = slice(len(chosen))
            logits = self._classifier.logits(rows.tokens[real], rows.segments[real], rows.token_types[real])
            encoded.put(found, chosen, logits)
        return encoded.whole(found)


def row_lengths(max_length: int, chosen: Sequence[int] = ()) -> tuple[int, ...]:
    """The lengths `chosen`, then the longer ones of the series 16, 24, 32, 48, ..., and last `max_length`."""
    last = max(chosen, default=0)
    ladder, rung = [], SHORTEST_ROW
    while rung < max_length:
        ladder += [rung, rung * 3 // 2]
        rung *= 2
    beyond = {length for length in (*ladder, max_length) if last < length <= max_length}
    return (*chosen, *sorted(beyond))


def check_inference(config: FinetuneConfig, workdir: epath.Path) -> None:
    """Refuse a config.inference that the end of the run could not serve.

    Raises:
      UserError: ONNX without its libraries, or in a bucket.
    """
    if config.inference != "onnx":
        return
    check_installed("config.inference='onnx'")
    if "://" in str(workdir):
        raise UserError(
            f"config.inference='onnx' writes model.onnx to a file system, which --workdir={workdir} is not on; "
            "set config.inference='jax', or a local --workdir"
        )
