"""Opening: as transformers does, by its own code where need be, and never by code that comes with a tokenizer."""

import json

import pytest
from etils import epath
from tokenizers import Tokenizer

from base.errors import UserError
from tests.tokenizer.small_tokenizers import DOCUMENTS, wordpiece
from tests.tokenizer.test_plain_text import SPELLED
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.needs_transformers import is_as_written
from tokenizer.tokenizer_files import CONFIG, TOKENIZER, read_files
from tokenizer.train import train_tokenizer


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("nfc", [False, True])
def test_a_tokenizer_of_this_project_is_opened_without_transformers_and_is_the_same(tmp_path, spaced, nfc):
    from transformers import AutoTokenizer

    config = TokenizerConfig(vocab_size=270, add_prefix_space=spaced, nfc=nfc)
    train_tokenizer(DOCUMENTS, config, epath.Path(tmp_path), model_max_length=16, progress=False)
    files = read_files(str(tmp_path))
    assert is_as_written(Tokenizer.from_buffer(files[TOKENIZER]), json.loads(files[CONFIG]))
    loaded, theirs = load(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.token_types is ("token_type_ids" in theirs.model_input_names)
    assert loaded.truncation_side == theirs.truncation_side
    for text in ("rain", " e\u0301 wind", "a <mask>b</s>", *SPELLED):
        assert loaded.tokenizer.encode(text).ids == theirs(text)["input_ids"]
    for fields in (
        {"add_prefix_space": not spaced} if not nfc else {"split_special_tokens": True},
        {"truncation_side": "left"},
        {"mask_token": "<hidden>"},
        {"additional_special_tokens": ["[E1]"]},
        {"tokenizer_class": "BertTokenizer"},
    ):
        changed = json.loads(files[CONFIG]) | fields
        assert not is_as_written(Tokenizer.from_buffer(files[TOKENIZER]), changed)


def test_code_that_comes_with_a_tokenizer_is_refused_and_never_run(tmp_path):
    declared = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    folder = wordpiece(tmp_path / "own", **declared)
    (folder / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(
        UserError, match=r"names code of its own \(auto_map in tokenizer_config\.json\)"
    ) as raised:
        load(str(folder))
    assert "\n" not in str(raised.value)


def test_a_configuration_that_transformers_refuses_is_one_line(tmp_path):
    folder = wordpiece(tmp_path / "bert", tokenizer_class="BertTokenizer", truncation_side="middle")
    with pytest.raises(UserError, match=r"cannot be read: Truncation side .*middle; set") as raised:
        load(str(folder))
    assert "\n" not in str(raised.value)
