"""Blanks filled as transformers' pipeline fills them, examples chosen from text, and the command line."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from etils import epath
from rich.console import Console

from base.errors import UserError
from base.schema import as_dict
from pretrain import fill_mask as module
from pretrain.config import PhaseConfig
from pretrain.fill_mask import (
    MASK,
    Candidate,
    Cloze,
    choose_examples,
    fill_mask,
    prediction_table,
    texts_between,
)
from pretrain.models import EncoderConfig, build
from pretrain.models.huggingface import config_dict, save_pretrained
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.runtime.workdir import MODEL_FILE, prepare, write_config
from tests.tiny import tiny_config
from tokenizer.config import TokenizerConfig
from tokenizer.train import train_tokenizer

TEXT = (
    "This sentence comes first. The old house by the river stands near the green road. A small child sees the old "
    "house and follows the river! See x = f(a.b) + g[3] ** 2 - h{7} // 4, then 12 + 34 == 46, 5, 6, 7 and 8. "
    "Short one. This sentence comes last of all in the whole text."
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("tokenizer"))
    config = TokenizerConfig(vocab_size=340, min_frequency=1)
    return train_tokenizer([TEXT] * 3, config, folder, model_max_length=64, progress=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = EncoderConfig(
        model_type="roberta", vocab_size=tokenizer.vocab_size + 4, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=48, hidden_act="gelu", max_position_embeddings=66,
        type_vocab_size=1, layer_norm_eps=1e-5, initializer_range=0.5, hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1, tie_word_embeddings=True, pad_token_id=tokenizer.special.pad,
        bos_token_id=tokenizer.special.cls, eos_token_id=tokenizer.special.sep,
    )  # fmt: skip
    return build(config)


@pytest.fixture(scope="module")
def params(model):
    return model.init(jax.random.key(0))


@pytest.fixture(scope="module")
def exported(model, params, tokenizer, tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("exported"))
    tokenizer.save(folder / "tokenizer")
    save_pretrained(folder / "model", model.config, params, folder / "tokenizer")
    return folder / "model"


def show(table):
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()


def test_blanks_are_filled_as_transformers_fills_them(model, params, tokenizer, exported):
    from transformers import pipeline

    texts = [
        f"The old {MASK} by the river.",
        f"A {MASK} child sees the {MASK}, and follows the river near the road.",
        f"The <pad> old</s> {MASK} is a special case.",
    ]
    ours = fill_mask(model, params, tokenizer, texts, top=5)
    theirs = pipeline("fill-mask", model=str(exported), tokenizer=str(exported), top_k=5)(texts)
    theirs = [[theirs[0]], theirs[1], [theirs[2]]]
    assert [len(blanks) for blanks in ours] == [1, 2, 1]
    for our_blanks, their_blanks in zip(ours, theirs):
        for our_blank, their_blank in zip(our_blanks, their_blanks):
            assert [c.word for c in our_blank] == [item["token_str"].strip() for item in their_blank]
            np.testing.assert_allclose(
                [c.probability for c in our_blank], [item["score"] for item in their_blank], rtol=1e-4
            )


def test_the_same_text_is_filled_the_same_beside_a_longer_one(model, params, tokenizer):
    alone = fill_mask(model, params, tokenizer, [f"The {MASK} road"])
    beside = fill_mask(model, params, tokenizer, [f"The {MASK} road", f"{TEXT[:120]} {MASK}"])
    assert [c.word for c in alone[0][0]] == [c.word for c in beside[0][0]]
    np.testing.assert_allclose(
        [c.probability for c in alone[0][0]], [c.probability for c in beside[0][0]], rtol=1e-4
    )


def test_rows_of_the_vocabulary_without_a_token_are_never_predicted(model, params, tokenizer):
    (((*candidates,),),) = fill_mask(model, params, tokenizer, [f"The {MASK} road"], top=10_000)
    assert len(candidates) == tokenizer.vocab_size


@pytest.mark.parametrize(
    ("text", "message"),
    [("no blank", "there is no <mask> in 'no blank'"), (f"{TEXT} {MASK}", "the model takes 62")],
)
def test_texts_that_cannot_be_filled_are_refused(model, params, tokenizer, text, message):
    with pytest.raises(UserError, match=message):
        fill_mask(model, params, tokenizer, [text])


def test_examples_are_sentences_with_one_common_word_blanked_out(tokenizer):
    examples = choose_examples([TEXT] * 3, tokenizer, max_length=64)
    assert len(examples) == 2, "one of each sentence of prose that is neither first nor last"
    for example in examples:
        assert example.text.count(MASK) == 1
        assert example.text.replace(MASK, example.answer) in TEXT
        assert len(tokenizer.encode([" " + example.answer])[0]) == 1
    assert choose_examples([TEXT] * 3, tokenizer, max_length=64) == examples
    assert choose_examples([TEXT] * 3, tokenizer, max_length=64, count=1) == examples[:1]
    assert choose_examples([TEXT], tokenizer, max_length=64, count=9)[0].answer in (
        "the",
        "old",
        "house",
        "river",
    )


def test_texts_of_a_row_are_without_its_special_tokens(tokenizer):
    special, (first, second) = tokenizer.special, tokenizer.encode(["the cat sleeps", "the dog runs"])
    row = np.array([special.cls, *first, special.sep, *second, special.sep, special.pad, special.pad])
    assert [text.strip() for text in texts_between(row, tokenizer)] == ["the cat sleeps", "the dog runs"]


def test_sentences_that_are_longer_than_the_model_are_left_out(tokenizer):
    examples = choose_examples([TEXT] * 3, tokenizer, max_length=64)
    lengths = [len(module._row(tokenizer, each.text)) for each in examples]
    assert choose_examples([TEXT] * 3, tokenizer, max_length=max(lengths)) == examples
    assert choose_examples([TEXT] * 3, tokenizer, max_length=min(lengths) - 1) == []


def test_text_without_prose_gives_no_examples(tokenizer):
    assert choose_examples(["x = 1", ""], tokenizer, max_length=64) == []


def test_the_table_marks_the_true_word():
    filled = [[[Candidate("river", 0.5), Candidate("[b]", 0.123)]]]
    lines = show(prediction_table([Cloze(f"By the {MASK}.", "river")], filled)).splitlines()
    assert [line.split() for line in lines if line.strip()] == [
        ["text", "true", "word", "predicted"],
        ["By", "the", "____.", "river", "50.0%", "river", "✓"],
        ["12.3%", "[b]"],
    ]
    assert "true word" not in show(prediction_table([Cloze(f"By the {MASK}.")], filled))


def test_command_line_on_an_exported_model(exported, capsys):
    assert module.main(["fill_mask", f"--model={exported}", "--top=2", f"The {MASK} road"]) == 0
    shown = capsys.readouterr().out
    assert "The ____ road" in shown and shown.count("%") == 2


def test_command_line_on_a_run_shows_held_out_sentences_of_its_last_phase(
    tmp_path, capsys, model, params, tokenizer, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    workdir, corpus = epath.Path(tmp_path / "run"), tmp_path / "text.txt"
    corpus.write_text("\n".join(f"{TEXT} Number {i}." for i in range(60)))
    prepare(workdir)
    config = tiny_config(corpus)
    last = PhaseConfig(steps=2, data=config.data)
    unread = dataclasses.replace(config.data, path=str(tmp_path / "no longer there.txt"))
    config = dataclasses.replace(config, steps=None, data=unread, phases=(PhaseConfig(steps=1), last))
    write_config(workdir, config)
    (workdir / MODEL_FILE).write_text(json.dumps(config_dict(model.config)))
    tokenizer.save(workdir / "tokenizer")
    checkpointer = Checkpointer(workdir)
    checkpointer.save(3, {"params": params}, {"best": None, "config": as_dict(config)})
    checkpointer.close()
    assert module.main(["fill_mask", "--workdir=~/run"]) == 0
    shown = capsys.readouterr().out
    assert "true word" in shown and shown.count("%") == 5 * shown.count("____") > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --workdir"),
        (["--model=x"], "give a text with <mask>"),
        (["--workdir=x", "a"], "--workdir=x does not exist; it should be the folder of a pretraining run"),
    ],
)
def test_wrong_command_lines_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        module.main(["fill_mask", *arguments])


def test_lines_of_stdin_are_those_of_a_file_with_the_same_content(tmp_path, monkeypatch):
    content = b"\xef\xbb\xbfone <mask>\rtwo <mask>\r\n\nthree <mask>"
    (tmp_path / "texts").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    expected = ["one <mask>", "two <mask>", "three <mask>"]
    assert module._texts_of("-") == module._texts_of(str(tmp_path / "texts")) == expected


def test_texts_of_a_file_are_filled(exported, tmp_path, capsys):
    (tmp_path / "texts").write_text(f"The {MASK} road\n\nA {MASK} house\n")
    assert module.main(["fill_mask", f"--model={exported}", f"--file={tmp_path / 'texts'}"]) == 0
    shown = capsys.readouterr().out
    assert "The ____ road" in shown and "A ____ house" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=x", "--file=y", "a"], "the text 'a' and --file=y are given"),
        (["--modell=x"], "--modell is not a flag; did you mean --model?"),
    ],
)
def test_texts_in_two_ways_and_unknown_flags_are_refused(arguments, message):
    with pytest.raises(UserError) as error:
        module.main(["fill_mask", *arguments])
    assert message in str(error.value)


def test_a_run_that_is_given_as_a_model_is_refused_by_its_flag(tmp_path):
    (tmp_path / MODEL_FILE).touch()
    with pytest.raises(UserError, match=r"--model=.* is the folder of a run; name it by --workdir"):
        module.main(["fill_mask", f"--model={tmp_path}", f"The {MASK} road"])
