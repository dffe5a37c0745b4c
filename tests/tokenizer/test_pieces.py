"""Which tokens of an earlier tokenizer stand for the tokens of a new one."""

import json
from pathlib import Path

import pytest
from etils import epath

from tests.tokenizer.small_tokenizers import unigram, wordpiece
from tokenizer.config import TokenizerConfig
from tokenizer.load import Loaded, load
from tokenizer.pieces import pieces
from tokenizer.train import train_tokenizer


def byte_level(folder: Path, words: str, size: int = 270) -> Loaded:
    config = TokenizerConfig(vocab_size=size, min_frequency=1)
    train_tokenizer([words] * 5, config, epath.Path(folder), model_max_length=16, progress=False)
    return load(str(folder))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """An English tokenizer, and a Norwegian one that knows Å as well."""
    folder = tmp_path_factory.mktemp("tokenizers")
    old = byte_level(folder / "en", " rain rain wind wind Wind")
    return old, byte_level(folder / "no", " vind vind vind Ål Ål Ål wind wind")


def ids_by_token(tokenizer: Loaded) -> dict[str, int]:
    return tokenizer.tokenizer.get_vocab()


def test_a_shared_token_is_itself_and_its_case_counts(both):
    old, new = both
    found, before, after = pieces(old, new), ids_by_token(old), ids_by_token(new)
    for token in ("Ġwind", "a", "Ġ", "Ã"):
        assert found.ids[after[token]] == (before[token],)
    assert found.shared == len(before.keys() & after.keys())
    back = pieces(new, old).ids[before["ĠWind"]]
    assert len(back) > 1 and after["Ġwind"] not in back


def test_another_token_is_the_pieces_that_the_earlier_tokenizer_cuts_it_into(both):
    old, new = both
    before, after = ids_by_token(old), ids_by_token(new)
    names = {index: token for token, index in before.items()}
    found = pieces(old, new)
    assert [names[index] for index in found.ids[after["Ġvind"]]] == ["Ġ", "v", "ind"]
    assert [names[index] for index in found.ids[after["ĠÃħ"]]] == ["Ġ", "Ã", "ħ"]
    for token, index in after.items():
        if index not in new.special_ids:
            assert "".join(names[each] for each in found.ids[index]) == token
    assert found.unknown == 0


def test_special_tokens_go_by_their_roles(both, tmp_path):
    old, bert = both[0], load(str(wordpiece(tmp_path / "bert")))
    found = pieces(bert, old)
    assert [found.ids[getattr(old.special, role)] for role in ("cls", "sep", "pad", "mask", "unk")] == [
        (getattr(bert.special, role),) for role in ("cls", "sep", "pad", "mask", "unk")
    ]
    assert found.shared == 5


def test_tokens_that_are_written_otherwise_are_compared_by_their_text(tmp_path):
    bert = load(str(wordpiece(tmp_path / "bert")))
    new = byte_level(tmp_path / "new", " playing playing plays Playing Playing 😀 xyz xyz", 279)
    names = {index: token for token, index in ids_by_token(bert).items()}

    def of(token: str) -> list[str]:
        return [names[index] for index in pieces(bert, new).ids[ids_by_token(new)[token]]]

    assert of("Ġplaying") == ["play", "##ing"] == of("ĠPlaying")  # this tokenizer reads no case
    assert of(",") == [","]
    assert of("Ġxyz") == [] == of("Ã")  # unknown to it, and half of a letter


def test_sentencepiece_and_wordpiece_give_texts_with_their_spaces(both, tmp_path):
    old, names = both[0], {index: token for token, index in ids_by_token(both[0]).items()}
    for make, token, expected in (
        (unigram, "▁rain", ["Ġrain"]),
        (unigram, "ing", ["in", "g"]),
        (wordpiece, "now", ["Ġ", "n", "o", "w"]),
        (wordpiece, "##ing", ["in", "g"]),
    ):
        folder = tmp_path / f"{make.__name__} {token}"
        new = load(str(make(folder)))
        assert [names[each] for each in pieces(old, new).ids[ids_by_token(new)[token]]] == expected


def test_an_added_token_is_text_and_a_special_one_is_known_by_its_name_alone(both, tmp_path):
    old = both[0]
    folder = epath.Path(tmp_path / "added")
    both[1].save(folder)
    file = tmp_path / "added" / "tokenizer.json"
    values = json.loads(file.read_text())
    size = both[1].vocab_size
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    values["added_tokens"] += [
        {"id": size, "content": "rain wind", "special": False, **plain},
        {"id": size + 1, "content": "<extra>", "special": True, **plain},
    ]
    file.write_text(json.dumps(values))
    new = load(str(folder))
    found, names = pieces(old, new), {index: token for token, index in ids_by_token(old).items()}
    assert [names[each] for each in found.ids[size]] == ["rain", "Ġwind"]
    assert found.ids[size + 1] == () and found.unknown == 1
