"""Folders of sentence-transformers: encoders of every family, and what the files of any release say of vectors."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

from base.errors import UserError
from finetune.classifier.embedder import load_embedder, save_embedder
from finetune.classifier.embedder_folder import MODULES, embedder_files, pooled_of
from tests.finetune.reference_models import inputs, pairs_of_texts, random_model
from tests.finetune.tiny_task import write_model
from tokenizer import load as tokenizers


@pytest.mark.parametrize("case", ["bert", "distilbert", "electra", "modernbert"])
def test_transformers_loads_an_encoder_of_any_family_with_our_vectors(case: str, tmp_path: Path):
    random_model(case, tmp_path / "theirs", task="MaskedLM")
    start, _ = load_embedder(str(tmp_path / "theirs"), pooling="mean")
    write_model(tmp_path / "tokens", layers=1)
    tokenizer = tokenizers.load(str(tmp_path / "tokens/model"))
    ours = tmp_path / "ours"
    save_embedder(ours, start.classifier, start.params, start.config, tokenizer, max_length=12)
    loaded, report = transformers.AutoModel.from_pretrained(
        ours, attn_implementation="eager", output_loading_info=True
    )
    assert all(name.startswith("pooler.") for name in report.pop("missing_keys"))
    assert not any(report.values())
    batch = pairs_of_texts(start.classifier.token_types, padded=True)
    with jax.default_matmul_precision("highest"), torch.no_grad():
        found = jax.jit(start.classifier.logits)(start.params, **batch)
        hidden = loaded.eval()(**inputs(loaded, batch)).last_hidden_state.numpy()
    inside = (np.asarray(batch["segments"]) > 0)[..., None]
    mean = (hidden * inside).sum(axis=1) / inside.sum(axis=1)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
    again, pooled = load_embedder(str(ours))
    assert (again.classifier.head_config.pooling, pooled.max_length) == ("mean", 12)
    jax.tree.map(np.testing.assert_array_equal, again.params, start.params)


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
