"""model.onnx with weights in int8, by onnxruntime's dynamic quantisation: smaller, often faster on CPUs, less exact.

Weights are stored in int8. Activations are quantised while the model runs, by their range in each batch.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from base.errors import UserError
from finetune.onnx import FILE_NAME, INT8_NAME, MOST_BYTES_IN_ONE_FILE, check_installed


def write_int8(folder: str | os.PathLike[str]) -> Path:
    """Write model_quantized.onnx beside the model.onnx of a folder. The file appears only when it is complete.

    Returns:
      The path of the file.

    Raises:
      UserError: the extra `onnx` is not installed, there is no model.onnx, it is damaged, or the disk is full.
    """
    check_installed("int8")
    place = Path(folder)
    if not (place / FILE_NAME).is_file():
        raise UserError(f"{folder} has no {FILE_NAME}; write one: python -m finetune.export_onnx --model=DIR")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    unfinished = place / f".{INT8_NAME}.unfinished-{os.getpid()}"
    try:
        unfinished.mkdir(parents=True)
        for file in place.glob(f"{FILE_NAME}*"):  # the quantiser writes beside what it reads
            shutil.copy(file, unfinished)
        _forget_shapes(unfinished / FILE_NAME)
        size = sum(file.stat().st_size for file in unfinished.iterdir())
        with _quiet():
            quantize_dynamic(
                unfinished / FILE_NAME,
                unfinished / INT8_NAME,
                weight_type=QuantType.QInt8,
                per_channel=True,
                use_external_data_format=size > 4 * MOST_BYTES_IN_ONE_FILE,
            )
        for file in sorted(unfinished.glob(f"{INT8_NAME}*"), reverse=True):  # the weights first
            file.replace(place / file.name)
    except OSError as error:
        raise UserError(f"{place / INT8_NAME} cannot be written: {error}") from error
    except Exception as error:  # onnx and onnxruntime have no common error class
        why = " ".join(str(error).split())[:300]
        raise UserError(f"{place / FILE_NAME} cannot be quantised: {why}; export it again") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return place / INT8_NAME


def _forget_shapes(file: Path) -> None:
    """Remove the shapes of intermediate values. Some that torch's exporter writes are not what onnx infers."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    del model.graph.value_info[:]
    onnx.save(model, file)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the quantiser's advice, which it gives to the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def mine(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    root.addFilter(mine)
    try:
        yield
    finally:
        root.removeFilter(mine)
        root.setLevel(level)
        for handler in [handler for handler in root.handlers if handler not in handlers]:
            root.removeHandler(handler)  # logging.warning() gives a root logger without handlers one
