"""Loading: every kind of fast tokenizer from a folder, a file or the hub, checked, with its words marked."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from tokenizers import Tokenizer, models

from base.errors import UserError
from data.special_tokens import SpecialTokens
from tests.tokenizer.small_tokenizers import byte_level, unigram, without_unknown, wordpiece
from tokenizer.load import load

REPOSITORY = Path(__file__).parents[2]


def marked(tokenizer, marks: np.ndarray) -> list[str]:
    return [tokenizer.tokenizer.id_to_token(int(index)) for index in np.flatnonzero(marks)]


def test_a_trained_folder_loads_as_it_was(tmp_path):
    folder = byte_level(tmp_path / "tokenizer")
    loaded = load(str(folder))
    assert loaded.special == SpecialTokens(cls=0, sep=2, pad=1, mask=4, unk=3)
    assert loaded.special_ids == (0, 1, 2, 3, 4)
    assert loaded.vocab_size == 270
    ids = loaded.encode(["rain and", ""])
    assert [row.dtype for row in ids] == [np.int32, np.int32]
    assert [row.shape for row in ids][1] == (0,)
    assert loaded.decode(ids[0]) == "rain and"
    assert loaded.decode([0, *ids[0], 2], skip_special_tokens=True) == "rain and"


def test_a_bare_tokenizer_json_takes_the_usual_names_and_ignores_truncation_and_padding(tmp_path):
    loaded = load(str(wordpiece(tmp_path / "bert") / "tokenizer.json"))
    assert loaded.special == SpecialTokens(cls=2, sep=3, pad=0, mask=4, unk=1)
    assert [ids.tolist() for ids in loaded.encode(["Playing, plays now"])] == [[5, 6, 8, 5, 7, 9]]


def test_declared_special_tokens_come_before_the_usual_names(tmp_path):
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<first>", "<hidden>")
    declared = {"bos_token": {"content": "<first>"}, "mask_token": "<hidden>", "cls_token": None}
    loaded = load(str(wordpiece(tmp_path / "bert", specials, **declared)))
    assert loaded.special == SpecialTokens(cls=5, sep=3, pad=0, mask=6, unk=1)
    assert loaded.special_ids == (0, 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(("missing", "role"), [(4, "mask"), (0, "pad"), (2, "cls"), (3, "sep"), (1, "unk")])
def test_a_missing_special_token_is_named(tmp_path, missing, role):
    specials = [
        token for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) if i != missing
    ]
    with pytest.raises(UserError, match=rf"has no {role} token \(looked for "):
        load(str(wordpiece(tmp_path / "bert", specials)))


def test_a_tokenizer_of_all_bytes_needs_no_unknown_token(tmp_path):
    from transformers import AutoTokenizer

    loaded = load(str(without_unknown(tmp_path / "bytes")))
    assert loaded.special == SpecialTokens(cls=256, sep=257, pad=257, mask=258, unk=None)
    assert loaded.special_ids == (256, 257, 258)
    text = "rain \u00e9\u4e2d\U0001f600 <|mask|> \x00"
    (ids,) = loaded.encode([text])
    assert loaded.decode(ids) == text and not set(ids.tolist()) & {*loaded.special_ids}
    loaded.save(epath.Path(tmp_path / "copy"), model_max_length=16)
    assert load(str(tmp_path / "copy")).fingerprint() == loaded.fingerprint()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert theirs.unk_token is None
    assert theirs("rain \u4e2d")["input_ids"] == [256, *loaded.encode(["rain \u4e2d"])[0], 257]
    assert marked(loaded, loaded.word_breaks())[-1] == "<|mask|>"

    with pytest.raises(UserError, match=r"has no unk token .* and unk if its tokens are not made of bytes"):
        load(str(without_unknown(tmp_path / "some", left_out=1)))


def test_words_of_a_byte_level_tokenizer_begin_with_white_space(tmp_path):
    loaded = load(str(byte_level(tmp_path / "tokenizer")))
    starts, breaks = marked(loaded, loaded.word_starts()), marked(loaded, loaded.word_breaks())
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    white = [
        chr(0x100 + byte) for byte in (9, 10, 11, 12, 13, 28, 29, 30, 31)
    ]  # how byte-level BPE spells them
    assert starts == [
        *specials,
        *white,
        "Ġ",
        *(token for token in starts if token[0] == "Ġ" and len(token) > 1),
    ]
    assert {"Ġwind", "Ġrain"} & set(starts)
    assert breaks == [*specials, *white]


def test_words_of_a_wordpiece_tokenizer_begin_without_the_continuation_prefix(tmp_path):
    loaded = load(str(wordpiece(tmp_path / "bert")))
    assert [token for token in range(loaded.vocab_size) if not loaded.word_starts()[token]] == [6, 7]
    assert marked(loaded, loaded.word_breaks()) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_words_of_a_unigram_tokenizer_begin_with_the_metaspace(tmp_path):
    loaded = load(str(unigram(tmp_path / "xlmr")))
    assert loaded.special == SpecialTokens(cls=0, sep=2, pad=1, mask=10, unk=3)
    assert [ids.tolist() for ids in loaded.encode(["rainy wind."])] == [[5, 6, 9, 8]]
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    assert marked(loaded, loaded.word_starts()) == [*specials, "▁", "▁rain", "▁wind", "<mask>"]
    assert marked(loaded, loaded.word_breaks()) == [*specials, "<mask>"]


def test_a_tokenizer_that_does_not_mark_words_is_refused_for_whole_words_only(tmp_path):
    tokens = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load(str(tmp_path))
    assert loaded.encode(["word"])[0].tolist() == [5]
    with pytest.raises(UserError, match=r"config\.masking\.whole_word=True needs .* this one is WordLevel"):
        loaded.word_starts()


def test_saving_keeps_the_tokenizer_and_sets_the_length(tmp_path):
    from transformers import AutoTokenizer

    loaded = load(str(wordpiece(tmp_path / "bert", model_max_length=512)))
    loaded.save(epath.Path(tmp_path / "copy"), model_max_length=128)
    again = load(str(tmp_path / "copy"))
    assert again.fingerprint() == loaded.fingerprint()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert (theirs.model_max_length, theirs.mask_token_id, theirs.cls_token_id) == (128, 4, 2)


def test_the_fingerprint_follows_what_decides_the_ids(tmp_path):
    first = load(str(wordpiece(tmp_path / "first")))
    assert load(str(tmp_path / "first" / "tokenizer.json")).fingerprint() == first.fingerprint()
    description = json.loads((tmp_path / "first" / "tokenizer.json").read_text())
    description["normalizer"]["lowercase"] = False
    (tmp_path / "cased.json").write_text(json.dumps(description))
    assert load(str(tmp_path / "cased.json")).fingerprint() != first.fingerprint()


def cutting_byte_level(folder: Path) -> Path:
    """One whose tokenizer.json cuts and pads, as those of sentence encoders do."""
    tokenizer = Tokenizer.from_file(str(byte_level(folder) / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=8, pad_id=1, pad_token="<pad>")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize(
    ("write", "digest"),
    [
        (cutting_byte_level, "592946d554041640bb03e00672f3acc5613c40404353171688c0ac13ce906696"),
        (byte_level, "592946d554041640bb03e00672f3acc5613c40404353171688c0ac13ce906696"),
        (wordpiece, "0849298ecf4abfb9c781349c7e13ab3671b8157ecbabc6ed009a62912ea4d532"),
        (unigram, "8f2c511b386752946579f2ec8e2f0e02d418e24cef234be6d609ec6c19d75d66"),
    ],
)
def test_the_fingerprint_is_the_one_that_checkpoints_hold(tmp_path, write, digest):
    assert load(str(write(tmp_path / "tokenizer"))).fingerprint() == digest


def test_the_fingerprint_follows_a_configuration_that_changes_ids(tmp_path):
    declared = [
        {},
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"additional_special_tokens": ["[E1]"]},
    ]
    prints = [
        load(str(wordpiece(tmp_path / str(i), tokenizer_class="BertTokenizer", **fields))).fingerprint()
        for i, fields in enumerate(declared)
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_ids_with_gaps_are_refused(tmp_path):
    folder = wordpiece(tmp_path / "bert")
    description = json.loads((folder / "tokenizer.json").read_text())
    description["model"]["vocab"]["now"] = 99
    (folder / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="13 tokens but ids up to 99"):
        load(str(folder))


def test_what_is_not_a_tokenizer_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"has no tokenizer.json"):
        load(str(tmp_path))
    with pytest.raises(UserError, match=r"there is no tokenizer at /no/such/folder"):
        load("/no/such/folder")
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(UserError, match=r"cannot be read: .*; set config\.tokenizer\.path") as raised:
        load(str(tmp_path))
    assert "\n" not in str(raised.value)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs: /ORG/NAME/resolve/REVISION/FILE, for `files` by `org/name`."""

    files: dict[str, dict[str, bytes]]

    def do_GET(self) -> None:
        owner, name, _, _, file = self.path.lstrip("/").split("/")[:5]
        repository = self.files.get(f"{owner}/{name}")
        content = repository.get(file) if repository else None
        gated = owner == "gated"
        self.send_response(403 if gated else 200 if content is not None else 404)
        if gated:
            self.send_header("X-Error-Code", "GatedRepo")
        elif content is None:
            self.send_header("X-Error-Code", "EntryNotFound" if repository else "RepoNotFound")
        if repository:
            self.send_header("X-Repo-Commit", "1" * 40)
        if content is not None:
            self.send_header("ETag", f'"{hash(content) & 0xFFFFFFFF:x}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content is not None and not gated and self.command == "GET":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path):
    folder = wordpiece(tmp_path / "bert", model_max_length=512)
    Hub.files = {"some/bert": {path.name: path.read_bytes() for path in folder.iterdir()}, "some/empty": {}}
    Hub.files["some/empty"]["config.json"] = b"{}"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def load_in_another_process(hub_ids: list[str], endpoint: str, home: Path, offline: bool) -> list[str]:
    code = (
        "from tokenizer.load import load\nfrom base.errors import UserError\n"
        f"for hub_id in {hub_ids}:\n"
        "    try: print(load(hub_id).special)\n"
        "    except UserError as error: print('error:', error)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**environment, "HF_HUB_OFFLINE": str(int(offline))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_hub_gives_a_tokenizer_or_one_line_why_not(hub, tmp_path):
    expected = {
        "some/bert": "SpecialTokens(cls=2, sep=3, pad=0, mask=4, unk=1)",
        "some/empty": "error: the hub's some/empty has no tokenizer.json (a fast tokenizer)",
        "gated/bert": "error: the hub's gated/bert is gated: accept its terms on its page there",
        "some/nothing": "error: there is no folder some/nothing, and no model of that id on the hub",
    }
    lines = load_in_another_process(list(expected), hub, tmp_path / "home", offline=False)
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected.values()):
        assert line.startswith(start)
    cached, unknown = load_in_another_process(
        ["some/bert", "some/other"], hub, tmp_path / "home", offline=True
    )
    assert cached == lines[0]
    assert unknown.startswith(
        "error: there is no folder some/other; tokenizer.json of the hub's model some/other is not in the local cache"
    )
