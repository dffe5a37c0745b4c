"""Files of weights: shards, both formats, what is refused, and which are fetched from the hub."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from etils import epath
from torch.serialization import get_unsafe_globals_in_checkpoint

from base.errors import UserError
from pretrain.models import huggingface, weight_files
from pretrain.models.weight_files import read_weights, write_weights

STATE = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.bias": np.array([1.5, -2.0, 0.25], np.float32),
    "b.weight": np.linspace(-1, 1, 10, dtype=np.float32),
}


def read(folder: Path) -> dict[str, np.ndarray]:
    return read_weights(epath.Path(folder), "THERE")


def assert_state(found: dict[str, np.ndarray]) -> None:
    assert set(found) == set(STATE)
    for name, array in STATE.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.float32


def tensors(names=tuple(STATE), dtype=torch.float32) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(STATE[name]).to(dtype) for name in names}


def write_shards(folder: Path, index: str, files: dict[str, list[str]]) -> None:
    places = {name: file for file, names in files.items() for name in names}
    (folder / index).write_text(json.dumps({"weight_map": places}))


def test_large_weights_are_written_as_shards_as_transformers_names_them(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(weight_files, "LARGEST_SHARD", 60)
    write_weights(epath.Path(tmp_path), STATE)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / names[2]).read_text())
    assert index["metadata"]["total_size"] == 100 and set(index["weight_map"]) == set(STATE)
    with safetensors.safe_open(tmp_path / names[0], "np") as file:
        assert file.metadata() == {"format": "pt"}
    assert_state(read(tmp_path))
    (tmp_path / names[1]).unlink()
    with pytest.raises(
        UserError, match=r"^THERE lacks model-00002-of-00002.safetensors, which its model.safetensors.i"
    ):
        read(tmp_path)


def test_small_weights_are_one_file(tmp_path: Path):
    write_weights(epath.Path(tmp_path), STATE)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert_state(read(tmp_path))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_weights_of_torch_are_read(tmp_path: Path, zipped: bool):
    torch.save(tensors(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_state(read(tmp_path))


def test_bfloat16_of_torch_becomes_float32(tmp_path: Path):
    torch.save(tensors(["a.bias"], torch.bfloat16), tmp_path / "pytorch_model.bin")
    np.testing.assert_array_equal(read(tmp_path)["a.bias"], STATE["a.bias"])


def test_shards_of_torch_are_read(tmp_path: Path):
    files = {
        "pytorch_model-00001-of-00002.bin": ["a.weight"],
        "pytorch_model-00002-of-00002.bin": ["a.bias", "b.weight"],
    }
    for file, names in files.items():
        torch.save(tensors(names), tmp_path / file)
    write_shards(tmp_path, "pytorch_model.bin.index.json", files)
    assert_state(read(tmp_path))
    write_shards(tmp_path, "pytorch_model.bin.index.json", {"../pytorch_model.bin": ["a.weight"]})
    with pytest.raises(
        UserError, match=r"names '\.\./pytorch_model.bin'; it should name \.bin files of its own folder"
    ):
        read(tmp_path)


def test_safetensors_are_preferred(tmp_path: Path):
    write_weights(epath.Path(tmp_path), STATE)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert_state(read(tmp_path))


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_code_in_weights_is_not_run(tmp_path: Path):
    file = tmp_path / "pytorch_model.bin"
    torch.save({**tensors(), "x": Harmful(tmp_path / "proof")}, file)
    assert get_unsafe_globals_in_checkpoint(file), "the file would run code"
    with pytest.raises(
        UserError,
        match=r"/pytorch_model\.bin is damaged, or holds more than tensors, .* by transformers' save_pretrained$",
    ) as error:
        read(tmp_path)
    assert not re.search(r"[\n\x1b]|weights_only", str(error.value)) and not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([1, 2], "should hold tensors by their names, as transformers saves them; it holds other things"),
        ({"model": {"a": torch.ones(1)}}, "should hold tensors by their names"),
        ({"a": torch.eye(2).to_sparse()}, "holds a tensor that is no plain array"),
        (b"nothing of torch", "is damaged, or holds more than tensors"),
    ],
    ids=["list", "nested", "sparse", "damaged"],
)
def test_a_file_of_torch_that_is_no_state_dict_is_one_line(tmp_path: Path, held, message: str):
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(held) if isinstance(held, bytes) else torch.save(held, file)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_without_torch_or_with_an_old_one_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.save(tensors(), tmp_path / "pytorch_model.bin")
    way_out = (
        r": pip install -c constraints.txt torch, or convert it .*from_pretrained\('THERE'\)\.save_pretrained"
    )
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu121")
    with pytest.raises(
        UserError, match=rf"not by 2\.5\.1\+cu121, in which such a file can run code{way_out}"
    ):
        read(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        UserError, match=rf"^THERE has no model.safetensors, .*not installed{way_out}"
    ) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_weights_is_one_line(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"^THERE has no model.safetensors and no pytorch_model.bin; other formats"
    ):
        read(tmp_path)


def test_the_hub_is_asked_for_weights_of_torch_only_where_there_are_no_others(tmp_path: Path, monkeypatch):
    asked: list[list[str]] = []

    def download(hub_id: str, patterns: list[str]) -> epath.Path:
        asked.append(patterns)
        if "pytorch_model*.bin" in patterns:
            torch.save(tensors(), tmp_path / "pytorch_model.bin")
        return epath.Path(tmp_path)

    monkeypatch.setattr(huggingface, "download", download)
    (tmp_path / "config.json").write_text("{}")
    assert_state(read(huggingface.download_model("owner/name", ["config.json"])))
    assert asked[1] == ["config.json", "pytorch_model*.bin", "pytorch_model.bin.index.json"]
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        UserError, match=r"^owner/name has no model.safetensors, and .* which is not installed"
    ):
        huggingface.download_model("owner/name", ["config.json"])
    write_weights(epath.Path(tmp_path), STATE)
    asked.clear()
    huggingface.download_model("owner/name", ["config.json"])
    assert asked == [["config.json", "*.safetensors", "model.safetensors.index.json"]]
