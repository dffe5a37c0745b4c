"""Files of weights: model.safetensors and pytorch_model.bin, whole or in shards, as names and arrays.

Nothing but a pytorch_model.bin is unpickled, and that by torch's own reader of weights, which makes tensors alone.
"""

import importlib
import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from base.errors import UserError
from base.json_files import json_object

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH_WEIGHTS, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
SHARD, TORCH_SHARD = re.compile(r"[^/\\]+\.safetensors"), re.compile(r"[^/\\]+\.bin")
"""Names of the files that an index may name."""
PATTERNS = ("*.safetensors", INDEX)
"""Files of a model on the hub that hold its weights."""
TORCH_PATTERNS = ("pytorch_model*.bin", TORCH_INDEX)
"""The same where it has no safetensors."""
LARGEST_SHARD = 5 * 10**9
"""Bytes of a file of weights; more are written as shards. transformers' default was the same up to its release 5."""
SAFE_TORCH = (2, 6)
"""The first release of torch whose `weights_only=True` is known to run no code (CVE-2025-32434)."""
FORMAT = {"format": "pt"}
"""What a safetensors file says of its layout, without which transformers does not load it."""

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
}

State = dict[str, np.ndarray]
"""Names to arrays."""


def has_weights(folder: epath.Path) -> bool:
    """Whether a folder has weights in a format that is read without torch."""
    return (folder / WEIGHTS).exists() or (folder / INDEX).exists()


def read_weights(folder: epath.Path, source: str) -> State:
    """The tensors of a model's folder.

    Args:
      folder: local or gs://.
      source: what the user calls it, for messages.

    Raises:
      UserError: no weights, a missing shard, a damaged file, or a pytorch_model.bin without torch.
    """
    if (folder / WEIGHTS).exists():
        return _read_safetensors(folder / WEIGHTS)
    if (folder / INDEX).exists():
        return _read_shards(folder / INDEX, source, SHARD, _read_safetensors)
    if (folder / TORCH_WEIGHTS).exists():
        check_torch(source)
        return _read_torch(folder / TORCH_WEIGHTS)
    if (folder / TORCH_INDEX).exists():
        check_torch(source)
        return _read_shards(folder / TORCH_INDEX, source, TORCH_SHARD, _read_torch)
    raise UserError(
        f"{source} has no {WEIGHTS} and no {TORCH_WEIGHTS}; other formats of weights are not read"
    )


def check_torch(source: str) -> None:
    """Refuse weights in torch's format where they cannot be read.

    Raises:
      UserError: torch is missing, or it is too old.
    """
    way_out = (
        "pip install -c constraints.txt torch, or convert it on a machine that has torch: "
        'python -c "from transformers import AutoModel; '
        f"AutoModel.from_pretrained({source!r}).save_pretrained('DIR')\" (of the class of its task for AutoModel)"
    )
    reader = f"torch {'.'.join(map(str, SAFE_TORCH))} or later"
    lacking = f"{source} has no {WEIGHTS}, and a {TORCH_WEIGHTS} is read by {reader}"
    try:
        version = importlib.import_module("torch").__version__
    except ImportError:
        raise UserError(f"{lacking}, which is not installed: {way_out}") from None
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < SAFE_TORCH:
        raise UserError(f"{lacking}, not by {version}, in which such a file can run code: {way_out}")


def _read_shards(
    index: epath.Path, source: str, allowed: re.Pattern[str], read: Callable[[epath.Path], State]
) -> State:
    """The tensors of the files that an index names."""
    names = _shards(index, allowed)
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise UserError(f"{source} lacks {missing[0]}, which its {index.name} names")
    return {name: array for shard in names for name, array in read(index.parent / shard).items()}


def _shards(index: epath.Path, allowed: re.Pattern[str]) -> list[str]:
    """The files that an index names, which lie beside it.

    Raises:
      UserError: it is damaged, or names a file elsewhere.
    """
    try:
        places = json_object(index).get("weight_map")
    except ValueError as error:
        raise UserError(f"{index} is not valid JSON: {error}") from error
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index} should have a weight_map, from the names of tensors to those of files")
    for name in places.values():
        if not (isinstance(name, str) and allowed.fullmatch(name)):
            kind = allowed.pattern.rpartition(".")[2]
            raise UserError(f"{index} names {name!r}; it should name .{kind} files of its own folder")
    return sorted(set(places.values()))


def _read_safetensors(file: epath.Path) -> State:
    """Names to arrays; unlike safetensors.numpy this also reads bfloat16."""
    try:
        views = dict(safetensors.deserialize(file.read_bytes()))
    except (safetensors.SafetensorError, IsADirectoryError) as error:
        raise UserError(f"{file} is damaged or not a safetensors file: {error}; fetch it again") from error
    arrays = {}
    for name, view in views.items():
        if view["dtype"] not in _DTYPES:
            raise UserError(f"{file}: {name} is of type {view['dtype']}; known are {', '.join(_DTYPES)}")
        arrays[name] = np.frombuffer(view["data"], _DTYPES[view["dtype"]]).reshape(view["shape"])
    return arrays


def _read_torch(file: epath.Path) -> State:
    """Names to arrays of a state dict that torch.save wrote. Its reader makes tensors and plain values alone."""
    import torch

    try:
        held = torch.load(io.BytesIO(file.read_bytes()), map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and torch have no common error class
        raise UserError(
            f"{file} is damaged, or holds more than tensors, which could run code and is not read. Fetch it again; or, "
            "where you trust it, save it as safetensors by transformers' save_pretrained"
        ) from error
    if not isinstance(held, Mapping) or not all(isinstance(value, torch.Tensor) for value in held.values()):
        raise UserError(
            f"{file} should hold tensors by their names, as transformers saves them; it holds other things"
        )
    try:
        return {str(name): _as_array(tensor) for name, tensor in held.items()}
    except (TypeError, RuntimeError) as error:
        raise UserError(f"{file} holds a tensor that is no plain array: {error}") from error


def _as_array(tensor: Any) -> np.ndarray:
    """A tensor as an array; bfloat16, which NumPy does not have, becomes float32."""
    import torch

    array: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    return array


def write_weights(folder: epath.Path, state: Mapping[str, np.ndarray]) -> None:
    """Write a state dict as model.safetensors, or as shards with an index if it is larger than `LARGEST_SHARD`."""
    if sum(array.nbytes for array in state.values()) <= LARGEST_SHARD:
        (folder / WEIGHTS).write_bytes(safetensors.numpy.save(dict(state), metadata=FORMAT))
        return
    from huggingface_hub import split_state_dict_into_shards_factory

    plan = split_state_dict_into_shards_factory(
        dict(state),
        get_storage_size=lambda array: array.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=LARGEST_SHARD,
    )
    for name, tensors in plan.filename_to_tensors.items():
        held = {tensor: state[tensor] for tensor in tensors}
        (folder / name).write_bytes(safetensors.numpy.save(held, metadata=FORMAT))
    content = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    (folder / INDEX).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
