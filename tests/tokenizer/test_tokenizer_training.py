"""Training: the same corpus gives the same files, which transformers reads as they were meant."""

import dataclasses
import json
import os
import random
import re
import signal
import string
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from etils import epath
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from base.errors import UserError
from tokenizer.config import TokenizerConfig
from tokenizer.sample import Sample
from tokenizer.train import train_tokenizer

REPOSITORY = Path(__file__).parents[2]
WORDS = [
    "rain",
    "wind",
    "storm",
    "harbour",
    "mountain",
    "valley",
    "island",
    "winter",
    "dark",
    "blåbær",
    "ærlig",
    "øy",
]
DOCUMENTS = [
    " ".join(WORDS[(i * step) % len(WORDS)] for step in range(1, 20)) + f"\n{i}." for i in range(200)
]
CONFIG = TokenizerConfig(vocab_size=320)


def train(out, documents=DOCUMENTS, config=CONFIG, model_max_length=64):
    return train_tokenizer(
        documents, config, epath.Path(out), model_max_length=model_max_length, progress=False
    )


def in_another_process(out: Path, threads: int, documents: str = "DOCUMENTS") -> subprocess.Popen:
    code = (
        "from tests.tokenizer.test_tokenizer_training import *\n"
        f"train({str(out)!r}, {documents})\n"
    )  # fmt: skip
    environment = {
        **os.environ,
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": str(threads > 1).lower(),
    }
    return subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env=environment)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_special_tokens_have_ids_0_to_4_and_every_byte_is_a_token(tmp_path):
    trained = train(tmp_path / "tokenizer")
    vocabulary = trained.tokenizer.get_vocab()
    assert [vocabulary[token] for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")] == [0, 1, 2, 3, 4]
    assert trained.vocab_size == 320
    assert [trained.encode([bytes([byte]).decode("latin-1")])[0].size for byte in range(128)] == [1] * 128
    assert sorted(path.name for path in (tmp_path / "tokenizer").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_same_corpus_gives_the_same_bytes_on_any_number_of_threads(tmp_path):
    processes = [in_another_process(tmp_path / f"threads{threads}", threads) for threads in (1, 8)]
    assert [process.wait(60) for process in processes] == [0, 0]
    train(tmp_path / "here")
    assert contents(tmp_path / "threads1") == contents(tmp_path / "threads8") == contents(tmp_path / "here")


def test_killed_midway_leaves_nothing_that_passes_for_a_tokenizer_and_the_rerun_gives_the_same_bytes(
    tmp_path,
):
    began = tmp_path / "began"
    slow = f"(__import__('pathlib').Path({str(began)!r}).touch() or time.sleep(0.05) or d for d in DOCUMENTS)"
    process = in_another_process(tmp_path / "killed", 2, slow)
    deadline = time.monotonic() + 60
    while not began.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "tokenizer.json").exists()
    train(tmp_path / "killed")
    train(tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("files_written", [0, 1])
def test_killed_while_writing_leaves_no_tokenizer_json(tmp_path, monkeypatch, files_written):
    kind = type(epath.Path(tmp_path))
    replace, moved = kind.replace, []

    def killed(path, target):
        if len(moved) == files_written:
            raise KeyboardInterrupt
        moved.append(target)
        return replace(path, target)

    monkeypatch.setattr(kind, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed")
    monkeypatch.undo()
    assert len(moved) == files_written
    assert not (tmp_path / "killed" / "tokenizer.json").exists()
    train(tmp_path / "killed")
    train(tmp_path / "whole")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("nfc", "kind"), [(False, "RobertaTokenizer"), (True, "TokenizersBackend")])
@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_transformers_reads_the_folder_as_it_was_trained(tmp_path, nfc, kind, add_prefix_space):
    from transformers import AutoTokenizer

    config = TokenizerConfig(vocab_size=320, nfc=nfc, add_prefix_space=add_prefix_space)
    trained = train(tmp_path / "tokenizer", config=config)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert type(theirs).__name__ == kind
    assert theirs.is_fast
    assert len(theirs) == trained.vocab_size
    assert theirs.model_max_length == 64
    assert (theirs.cls_token_id, theirs.sep_token_id, theirs.pad_token_id) == (0, 2, 1)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 2, 3)
    assert (theirs.mask_token, theirs.mask_token_id) == ("<mask>", 4)
    first, second = "blåbær på øy", "ærlig  rain\n"
    ours = [ids.tolist() for ids in trained.encode([first, second])]
    assert theirs(first)["input_ids"] == [0, *ours[0], 2]
    assert theirs(first, second)["input_ids"] == [0, *ours[0], 2, 2, *ours[1], 2]
    assert sorted(theirs(first, second)) == ["attention_mask", "input_ids"]
    before = trained.encode(["rain"])[0].tolist()
    assert theirs("rain <mask>")["input_ids"] == [0, *before, 4, 2]  # the space is the mask token's
    decomposed = unicodedata.normalize("NFD", "blåbær på øy")
    same = trained.encode([decomposed])[0].tolist() == ours[0]
    assert same is nfc
    assert theirs(decomposed)["input_ids"][1:-1] == trained.encode([decomposed])[0].tolist()


def test_any_text_survives_the_round_trip(tmp_path):
    trained = train(tmp_path / "tokenizer")
    texts = ["Hei på deg!\n\n\tja  ", "日本語 🎉", "\x00\x7f", "don't <s> </s> <mask> [MASK]", ""]
    assert [trained.decode(ids) for ids in trained.encode(texts)] == texts


def test_a_tokenizer_is_trained_on_the_sample_alone(tmp_path):
    sampled = train(tmp_path / "sampled", DOCUMENTS, TokenizerConfig(vocab_size=300, sample_documents=50))
    taken = list(Sample(DOCUMENTS, documents_at_most=50))
    whole = train(tmp_path / "whole", taken, TokenizerConfig(vocab_size=300))
    assert len(taken) == 50 and sampled.fingerprint() == whole.fingerprint()
    with pytest.raises(UserError, match=r"config.tokenizer.sample_bytes=-1 should be 1 or more, or 0"):
        train(tmp_path / "no", config=TokenizerConfig(vocab_size=300, sample_bytes=-1))


LETTERS = "".join(random.Random(0).choices("abcdefgh", k=9_000))
LONG = [LETTERS, f"rain {LETTERS[:3000]}, wind {'=' * 2500}", " " * 6000 + "storm"]


def test_long_words_are_cut_and_counted_in_one_line(tmp_path, caplog):
    trained = train(tmp_path / "cut", [*DOCUMENTS, *LONG])
    assert [record.getMessage() for record in caplog.records] == [
        "4 words of the tokenizer's text have more than 2000 characters (the longest has 9000); they were cut into "
        "parts of this length; text without spaces or punctuation makes few useful tokens"
    ]
    parts = [
        *(LETTERS[start : start + 2000] for start in range(0, 9_000, 2000)),
        f"rain {LETTERS[:1999]}",
        f"{LETTERS[1999:3000]}, wind {'=' * 1999}",
        "=" * 501,
        *[" " * 2000] * 2,
        " " * 2000 + "storm",
    ]
    caplog.clear()
    assert train(tmp_path / "parts", [*DOCUMENTS, *parts]).fingerprint() == trained.fingerprint()
    assert trained.tokenizer.decode(trained.encode([LONG[1]])[0]) == LONG[1]


def test_words_up_to_the_bound_make_the_tokenizer_that_they_always_made(tmp_path, caplog):
    text = "雨と風、" * 3000  # no spaces, but punctuation
    documents = [
        *DOCUMENTS,
        text,
        LETTERS[:2000],
        f"wind {LETTERS[:1999]} {LETTERS[:1999]}",
        "\n".join(DOCUMENTS),
    ]
    trained = train(tmp_path / "t", documents)
    assert not caplog.records
    model = json.loads(trained.tokenizer.to_str())["model"]
    reference = Tokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        min_frequency=2,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    reference.train_from_iterator(documents, trainer)
    assert model["merges"] == json.loads(reference.to_str())["model"]["merges"]


def test_words_of_a_hundred_thousand_letters_take_seconds(tmp_path):
    draw = random.Random(0)
    documents = ["".join(draw.choices(string.ascii_lowercase, k=100_000)) for _ in range(4)]
    began = time.process_time()
    train(tmp_path / "t", documents, TokenizerConfig(vocab_size=1000))
    assert time.process_time() - began < 10


def test_a_vocabulary_too_large_for_the_sample_names_the_sample(tmp_path):
    config = TokenizerConfig(vocab_size=4000, sample_documents=20)
    with pytest.raises(UserError) as raised:
        train(tmp_path / "t", config=config)
    size = int(re.search(r"(\d+) tokens", str(raised.value))[1])
    assert str(raised.value) == (
        "config.tokenizer.vocab_size=4000 is more than the 20 documents of config.tokenizer.sample_documents=20 "
        f"support: {size} tokens at config.tokenizer.min_frequency=2; set config.tokenizer.vocab_size={size} or less "
        "to take what there is, or raise config.tokenizer.sample_documents (0 takes all documents), or lower "
        "config.tokenizer.min_frequency=2"
    )
    taken = train(tmp_path / "t", config=dataclasses.replace(config, vocab_size=size))
    assert taken.vocab_size == size
    for sample in (0, len(DOCUMENTS), 10_000):  # not the limit: the corpus ends first
        with pytest.raises(
            UserError, match=r"these 200 documents support.*or give it more text \(config\.data\)"
        ):
            train(tmp_path / "u", config=dataclasses.replace(config, sample_documents=sample))


def test_min_frequency_refuses_rare_merges(tmp_path):
    with pytest.raises(
        UserError,
        match=r"261 tokens at config\.tokenizer\.min_frequency=3; set config\.tokenizer\.vocab_size=261",
    ):
        train(tmp_path / "t", ["ab cd"] * 2, TokenizerConfig(vocab_size=262, min_frequency=3))


def test_a_corpus_too_small_says_what_it_supports_and_writes_nothing(tmp_path):
    with pytest.raises(
        UserError,
        match=r"vocab_size=50265 .* 2 documents support: 265 tokens .* set config\.tokenizer\.vocab_size=265",
    ):
        train(tmp_path / "tokenizer", ["abc bcd", "abc bcd"], TokenizerConfig())
    assert not (tmp_path / "tokenizer").exists()
    assert train(tmp_path / "tokenizer", ["abc bcd"] * 2, TokenizerConfig(vocab_size=265)).vocab_size == 265


def test_a_vocabulary_smaller_than_the_bytes_is_refused_before_reading(tmp_path):
    def documents():
        raise AssertionError("read")
        yield

    with pytest.raises(UserError, match="set at least 261"):
        train(tmp_path / "tokenizer", documents(), TokenizerConfig(vocab_size=260))


def test_an_empty_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match="no documents"):
        train(tmp_path / "tokenizer", [], TokenizerConfig(vocab_size=261))
    assert not (tmp_path / "tokenizer").exists()


def test_an_error_of_the_source_passes_through_and_writes_nothing(tmp_path):
    def documents():
        yield "fine"
        raise UserError("corpus.jsonl line 7: no field 'text'")

    with pytest.raises(UserError, match="line 7"):
        train(tmp_path / "tokenizer", documents())
    assert not (tmp_path / "tokenizer").exists()


def test_a_lone_surrogate_is_read_as_a_replacement_character(tmp_path):
    broken = json.loads('"a \\ud800 b"')
    trained = train(tmp_path / "tokenizer", [*DOCUMENTS, broken])
    assert [ids.tolist() for ids in trained.encode([broken, "b"])] == [
        ids.tolist() for ids in trained.encode(["a \ufffd b", "b"])
    ]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written to .*file/tokenizer"):
        train(tmp_path / "file" / "tokenizer")


def test_progress_is_plain_lines_outside_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tokenizer.training_progress.SECONDS_BETWEEN_LINES", 0.0)
    train_tokenizer(
        DOCUMENTS[:2] * 50,
        TokenizerConfig(vocab_size=270),
        epath.Path(tmp_path),
        model_max_length=8,
        progress=True,
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "tokenizer: 1 documents read, 0.0 MB"
    assert lines[-2] == "tokenizer: 100 documents read, 0.0 MB; merging"
    assert lines[-1].startswith("tokenizer: trained in ")
    assert not any("\x1b" in line for line in lines)
