"""Write a classifier, a model that answers questions, or a masked language model as model.onnx; run it by onnxruntime.

torch.onnx converts the exported folder. Two maintained libraries were tried. torch.onnx was right for every family at
any batch size and length. jax2onnx cannot convert `jnp` code with symbolic lengths, and it pins an older Orbax.
"""

import contextlib
import importlib.util
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from base.errors import UserError
from base.json_files import json_object
from pretrain.models import families
from pretrain.models.huggingface import CONFIG, class_names, parse_config

FILE_NAME = "model.onnx"
INT8_NAME = "model_quantized.onnx"
"""The file with weights in int8, by the name that optimum and transformers.js look for."""
SUFFIXES = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM")
"""Ends of the names of the classes that are written."""
SPANS = ("start_logits", "end_logits")
"""The outputs of a model that answers questions."""
MOST_BYTES_IN_ONE_FILE = 1 << 30
"""Larger weights go to model.onnx.data, because a protobuf file can have at most 2 GiB."""
EXAMPLE_LENGTH = 8
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")
INSTALL = "install it: pip install -c constraints.txt -e .[onnx]"
# Warnings of torch's exporter about its own code. A caller cannot avoid them.
_EXPECTED_WARNINGS = (r".*isinstance\(treespec, LeafSpec\)", r"# The axis name: .* will not be used")


def export_onnx(model_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write model.onnx for an exported classifier or masked language model. The file appears when it is complete.

    The inputs are `input_ids`, `attention_mask` and, if the model has several token types, `token_type_ids`, each int64
    [batch, sequence]. The output is `logits`, float32 [batch, C], or [batch, sequence, C] of tokens, where C is the
    vocabulary of a masked language model; or `start_logits` and `end_logits` [batch, sequence] of answers. The size of
    both axes is free; a sequence may have as many tokens as the model has positions for (RoBERTa: 512 of its 514).
    Weights of more than a GiB are in model.onnx.data in the same folder. A model_quantized.onnx of an earlier
    model.onnx is removed.

    Args:
      model_dir: a local folder that transformers' AutoModelForSequenceClassification, AutoModelForTokenClassification,
        AutoModelForQuestionAnswering or AutoModelForMaskedLM loads.
      out: the folder to write to; None is `model_dir`.

    Returns:
      The path of the file.

    Raises:
      UserError: the extra `onnx` is not installed, the folder has no such model or a damaged one, or the disk is full.
    """
    for library in ("torch", "onnx", "onnxscript"):
        _need(library)
    folder = Path(model_dir)
    place = folder if out is None else Path(out)
    model = _load(folder)
    return write_whole(place, lambda file: _export(model, file))


def write_whole(place: Path, export: Callable[[Path], None]) -> Path:
    """Write model.onnx so that it appears when it is complete, and remove model_quantized.onnx of an earlier one.

    Args:
      place: the folder to write to.
      export: function that writes the file at a path, and its weights beside it.

    Returns:
      The path of the file.

    Raises:
      UserError: the disk is full, or the folder cannot be written to.
    """
    unfinished = place / f".{FILE_NAME}.unfinished-{os.getpid()}"
    try:
        unfinished.mkdir(parents=True)
        export(unfinished / FILE_NAME)
        # The weights first: when model.onnx refers to model.onnx.data, that file must exist.
        for file in sorted(unfinished.iterdir(), reverse=True):
            file.replace(place / file.name)
        remove_files(place, INT8_NAME)
    except OSError as error:
        raise UserError(f"{place / FILE_NAME} cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return place / FILE_NAME


def remove_files(folder: epath.PathLike, *names: str) -> None:
    """Remove files of these names from a folder, and the files with their weights; a folder need not exist."""
    folder = epath.Path(folder)
    for file in folder.iterdir() if folder.exists() else ():
        if file.name.startswith(names):
            file.unlink()


class OnnxClassifier:
    """The model of a folder's model.onnx, which onnxruntime runs on the CPU."""

    def __init__(self, folder: str | os.PathLike[str], name: str = FILE_NAME):
        """Open the file, model.onnx or another of the folder.

        Raises:
          UserError: onnxruntime is not installed, there is no model.onnx, or it is damaged.
        """
        _need("onnxruntime")
        import onnxruntime

        file = Path(folder) / name
        if not file.is_file():
            flag = " --int8" if name == INT8_NAME else ""
            raise UserError(
                f"{folder} has no {name}; write one: python -m finetune.export_onnx --model=DIR{flag}"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common base class
            raise UserError(
                f"{file} is damaged or not an ONNX model ({_one_line(error)}); export it again"
            ) from error
        self._inputs = [value.name for value in self._session.get_inputs()]
        named = [value.name for value in self._session.get_outputs()]
        self._outputs = list(SPANS) if SPANS[0] in named else ["logits"]

    @property
    def labels(self) -> int:
        """Number of logits C."""
        if len(self._outputs) > 1:
            return len(self._outputs)
        return int(self._session.get_outputs()[0].shape[-1])

    def logits(
        self,
        tokens: Int[np.ndarray, "B S"],
        attention_mask: Int[np.ndarray, "B S"],
        token_types: Int[np.ndarray, "B S"] | None = None,
    ) -> Float[np.ndarray, "B ... C"]:
        """The logits of the classes, or the score (C = 1), in float32; of tokens [B, S, C], of starts and ends C = 2.

        Args:
          tokens: token ids, padded with the padding token.
          attention_mask: 1 for a token, 0 for padding.
          token_types: token-type ids; None means type 0 for all tokens. A model with one type ignores them.
        """
        if token_types is None:
            token_types = np.zeros_like(tokens)
        given = {"input_ids": tokens, "attention_mask": attention_mask, "token_type_ids": token_types}
        feed = {name: np.asarray(given[name], np.int64) for name in self._inputs}
        found = self._session.run(self._outputs, feed)
        return found[0] if len(found) == 1 else np.stack(found, -1)


def check_installed(setting: str) -> None:
    """Refuse a setting that needs ONNX before the run starts, so that no work is lost.

    Raises:
      UserError: a library of the extra `onnx` is not installed.
    """
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            raise UserError(f"{setting} needs {library}, which is not installed; {INSTALL}")


def _load(folder: Path) -> Any:
    """The model of a folder as a torch module in float32, ready for export."""
    if not (folder / CONFIG).is_file():
        inside = folder / "model"  # of a fine-tuning run's workdir
        due = str(inside) if (inside / CONFIG).is_file() else "the folder of an exported model"
        raise UserError(f"{folder} has no {CONFIG}; name {due}")
    import torch
    import transformers

    with _quiet():
        try:
            named = class_names(json_object(epath.Path(folder / CONFIG))) or ["no architecture"]
            suffix = next((each for each in SUFFIXES if named[0].endswith(each)), "")
            if not suffix:
                due = "finetune.onnx_embedder.export_embedder writes the ONNX file of an encoder"
                raise UserError(
                    f"{folder} holds {named[0]}, not a model {' or '.join(SUFFIXES)}; "
                    + (due if named[0].endswith("Model") else "fine-tune it first")
                )
            model, info = getattr(transformers, f"AutoModel{suffix}").from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation="eager",
                local_files_only=True,
                output_loading_info=True,
            )
        except UserError:
            raise
        except Exception as error:  # JSON, safetensors, torch and transformers have no common error class
            raise UserError(f"{folder} is not a model that transformers loads: {_one_line(error)}") from error
    if info["missing_keys"]:
        raise UserError(
            f"{folder} lacks weights of its network: {', '.join(sorted(info['missing_keys'])[:3])}"
        )
    return model.eval()


def _export(model: Any, file: Path) -> None:
    """Write a torch module as ONNX. The example input has padding, so that the trace keeps the attention mask."""
    import torch

    config = model.config
    longest = _longest(config)
    length = min(EXAMPLE_LENGTH, longest)
    ids = torch.zeros((2, length), dtype=torch.int64)
    mask = torch.ones((2, length), dtype=torch.int64)
    mask[1, -1] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=longest)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            model,
            (),
            file,
            kwargs=inputs,
            input_names=list(inputs),
            output_names=list(SPANS) if type(model).__name__.endswith(SUFFIXES[2]) else ["logits"],
            dynamic_shapes={name: {0: batch, 1: sequence} for name in inputs},
            external_data=size > MOST_BYTES_IN_ONE_FILE,
            dynamo=True,
            verbose=False,
        )
    _remove_traces(file)


def _remove_traces(file: Path) -> None:
    """Remove the source location of each operation. The exporter writes paths of this machine into the file."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    for graph in (model.graph, *model.functions):
        for part in (graph, *graph.node, *graph.value_info):
            del part.metadata_props[:]
    onnx.save(model, file)


def _longest(config: Any) -> int:
    """Most tokens of a row. Some families reserve positions, so it can be lower than max_position_embeddings."""
    if config.model_type in families.names():
        return parse_config(config.to_dict(), CONFIG).max_length
    return int(config.max_position_embeddings)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress transformers' progress bars, and the messages of torch's exporter about its own code."""
    from transformers.utils import logging as transformers_logging

    exporters = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels, bars = [each.level for each in exporters], transformers_logging.is_progress_bar_enabled()
    for exporter in exporters:
        exporter.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for exporter, level in zip(exporters, levels, strict=True):
            exporter.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _need(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise UserError(f"{library} is not installed, which ONNX needs; {INSTALL}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
