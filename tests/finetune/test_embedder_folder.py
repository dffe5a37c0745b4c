"""Folders of sentence-transformers: what they say of vectors, in the form of any release, and what is not known."""

import json
from pathlib import Path

import pytest

from base.errors import UserError
from finetune.classifier.embedder_folder import MODULES, embedder_files, pooled_of


def _folder(path: Path, modules: list[str], pooling: dict, transformer: dict | None = None) -> str:
    listed = [
        {"idx": index, "name": str(index), "path": f"{index}_{name}" if index else "", "type": f"x.{name}"}
        for index, name in enumerate(modules)
    ]
    (path / MODULES).write_text(json.dumps(listed))
    (path / "1_Pooling").mkdir(exist_ok=True)
    (path / "1_Pooling/config.json").write_text(json.dumps(pooling))
    (path / "sentence_bert_config.json").write_text(json.dumps(transformer or {}))
    (path / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "q: "}, "default_prompt_name": "query"})
    )
    return str(path)


def test_what_a_folder_says_is_read_in_the_form_of_any_release(tmp_path: Path):
    plain = ["Transformer", "Pooling"]
    old = _folder(tmp_path, plain, {"pooling_mode_cls_token": True}, {"max_seq_length": 99})
    found = pooled_of(embedder_files(old), old)
    assert (found.pooling, found.normalized, found.max_length, found.prompt) == ("cls", False, 99, "q: ")
    new = _folder(tmp_path, [*plain, "Normalize"], {"pooling_mode": "mean"})
    found = pooled_of(embedder_files(new), new)
    assert (found.pooling, found.normalized, found.max_length) == ("mean", True, 0)


@pytest.mark.parametrize(
    ("modules", "pooling", "transformer", "message"),
    [
        (
            ["Transformer", "Pooling", "Dense"],
            {"pooling_mode": "mean"},
            {},
            "has the modules Transformer, Pooling, D",
        ),
        (["Transformer", "Pooling"], {"pooling_mode": "max"}, {}, "has the pooling max in its"),
        (["Transformer", "Pooling"], {}, {}, "has the pooling of no mode in its"),
        (
            ["Transformer", "Pooling"],
            {"pooling_mode": "mean"},
            {"do_lower_case": True},
            "has do_lower_case=true",
        ),
        (["Transformer", "../x"], {}, {}, "should name folders of its own folder"),
    ],
)
def test_modules_that_are_not_known_are_one_line(tmp_path: Path, modules, pooling, transformer, message):
    folder = _folder(tmp_path, modules, pooling, transformer)
    with pytest.raises(UserError, match=message) as error:
        pooled_of(embedder_files(folder), folder)
    assert "\n" not in str(error.value)
