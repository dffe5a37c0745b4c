"""Labelling texts from the command line: every line answered, as transformers would, and mistakes said in one line."""

import gzip
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from base.errors import UserError
from finetune.classifier.finetuned_model import find_model
from finetune.classifier.inference import FACTS_FILE, Facts
from finetune.classifier.pretrained import load_encoder_for_classification, save_classifier
from finetune.predict import main
from tests.finetune.tiny_task import write_model
from tokenizer.load import load

NAMES = ("bad", "so so", "good")
TEXTS = [
    "the cat sees a dog",
    "",
    "old horse",
    "a red bird loves the green river near a house and never sleeps",
    "x",
]


def write_classifier(folder: Path, source: Path, names: tuple[str, ...], facts: Facts | None) -> Path:
    """A classifier with a random head, as a fine-tuning run writes it; without `facts` as others do."""
    start = load_encoder_for_classification(str(source), names, seed=1)
    beside = {FACTS_FILE: facts.as_json()} if facts else {}
    tokenizer = load(str(source))
    save_classifier(folder, start.classifier, start.params, start.config, names, tokenizer, beside=beside)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("models")
    bare = write_model(folder)
    return SimpleNamespace(
        bare=bare,
        classes=write_classifier(folder / "classes", bare, NAMES, Facts(texts=1, max_length=12)),
        pairs=write_classifier(folder / "pairs", bare, NAMES, Facts(texts=2, max_length=24)),
        score=write_classifier(folder / "score", bare, (), Facts(texts=1, max_length=24)),
        others=write_classifier(folder / "others", bare, NAMES, None),
    )


def predict(model: Path, out: Path, *flags: str) -> list[list[str]]:
    """The lines that are written, as fields."""
    assert main(["predict", f"--model={model}", f"--out={out}", "--compilation_cache=", *flags]) == 0
    return [line.split("\t") for line in out.read_text().split("\n")[:-1]]


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def theirs(folder: Path, first: list[str], second: list[str] | None, max_length: int) -> np.ndarray:
    """Logits of transformers for the same texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    rows = [
        tokenizer(*([text] for text in texts), truncation=True, max_length=max_length, return_tensors="pt")
        for texts in (zip(first, second) if second else zip(first))
    ]
    with torch.no_grad():
        return np.concatenate([model(**row).logits.numpy() for row in rows])


def assert_says(rows: list[list[str]], logits: np.ndarray) -> None:
    """Rows answer what these logits do."""
    probabilities = torch.softmax(torch.tensor(logits, dtype=torch.float64), dim=1).numpy()
    assert [row[0] for row in rows] == [NAMES[index] for index in logits.argmax(axis=1)]
    assert len({row[0] for row in rows}) > 1
    np.testing.assert_allclose([float(row[1]) for row in rows], probabilities.max(axis=1), atol=1e-4)


def test_every_line_of_a_file_is_answered_as_transformers_does(models: SimpleNamespace, tmp_path: Path):
    text = write(tmp_path / "texts", *TEXTS)
    header, *rows = predict(models.classes, tmp_path / "out", f"--text={text}", "--batch=2")
    assert header == ["label", "probability", "text"]
    assert [row[2] for row in rows] == TEXTS
    assert_says(rows, theirs(models.classes, TEXTS, None, 12))
    # 12 is what the model was fine-tuned with, and cuts the long one.
    assert (
        np.abs(
            theirs(models.classes, TEXTS[3:4], None, 12) - theirs(models.classes, TEXTS[3:4], None, 64)
        ).max()
        > 1e-3
    )


def test_stdin_to_stdout_is_the_same(
    models: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    content = "\n".join(TEXTS).encode()  # the last line without its line break
    (tmp_path / "texts.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert main(["predict", f"--model={models.classes}", "--compilation_cache="]) == 0
    written = capfd.readouterr()
    predict(models.classes, tmp_path / "out", f"--text={tmp_path / 'texts.gz'}")
    assert written.out == (tmp_path / "out").read_text()
    assert written.err == ""


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_line_is_answered_whatever_ends_it(
    models: SimpleNamespace,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
):
    content = b"the cat\ra dog\r\n\rold\nhorse"
    path = tmp_path / f"texts.txt{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    rows = predict(models.classes, tmp_path / "out", f"--text={path}")
    assert [row[-1] for row in rows[1:]] == ["the cat", "a dog", "", "old", "horse"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False))
    assert main(["predict", f"--model={models.classes}", "--compilation_cache="]) == 0
    assert capfdbinary.readouterr().out == (tmp_path / "out").read_bytes()


def test_pairs_are_two_columns_and_an_empty_line_is_a_pair(models: SimpleNamespace, tmp_path: Path):
    first, second = ["", *TEXTS[:4]], ["", "the dog sees a cat", "x", "", "a a a"]
    lines = ["", *(f"{a}\t{b}" for a, b in zip(first[1:], second[1:]))]
    text = write(tmp_path / "texts", *lines)
    header, *rows = predict(models.pairs, tmp_path / "out", f"--text={text}")
    assert header == ["label", "probability", "text", "text_pair"]
    assert [row[2:] for row in rows] == [list(pair) for pair in zip(first, second)]
    assert_says(rows, theirs(models.pairs, first, second, 24))
    # A model of others says nothing of pairs, and takes them all the same.
    header, *others = predict(models.others, tmp_path / "others", f"--text={text}", "--max_length=24")
    assert [row[2:] for row in others] == [row[2:] for row in rows]


def test_a_score_has_no_label(models: SimpleNamespace, tmp_path: Path):
    header, *rows = predict(
        models.score, tmp_path / "new" / "out", f"--text={write(tmp_path / 'texts', *TEXTS)}"
    )
    assert header == ["score", "text"]
    expected = theirs(models.score, TEXTS, None, 24)[:, 0]
    np.testing.assert_allclose([float(row[0]) for row in rows], expected, atol=1e-4)


def test_onnx_says_the_same_and_is_made_where_it_is_missing(
    models: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = write(tmp_path / "texts", *TEXTS)
    expected = predict(models.score, tmp_path / "jax", f"--text={text}")
    for said in (f"{models.score} has no model.onnx yet; making it\n", ""):
        found = predict(models.score, tmp_path / "onnx", f"--text={text}", "--inference=onnx", "--batch=2")
        assert [row[1:] for row in found] == [row[1:] for row in expected]
        ours, onnx = ([float(row[0]) for row in rows[1:]] for rows in (expected, found))
        np.testing.assert_allclose(onnx, ours, atol=1.01e-4)  # both have four decimals
        assert capsys.readouterr().err == said


def test_tables_are_read_by_their_columns(models: SimpleNamespace, tmp_path: Path):
    (tmp_path / "a.csv").write_text('id,said\n1,"the cat\tsees\na dog"\n2,old horse\n')
    (tmp_path / "a.jsonl").write_text('{"said": "the cat\\tsees\\na dog"}\n{"said": "old horse"}\n')
    for name in ("a.csv", "a.jsonl"):
        _, *rows = predict(
            models.classes, tmp_path / "out", f"--text={tmp_path / name}", "--text_column=said"
        )
        assert [row[2] for row in rows] == ["the cat sees a dog", "old horse"]
        expected = theirs(models.classes, ["the cat\tsees\na dog", "old horse"], None, 12)
        assert [row[0] for row in rows] == [NAMES[index] for index in expected.argmax(axis=1)]


def test_no_lines_have_no_answers(models: SimpleNamespace, tmp_path: Path):
    assert predict(models.classes, tmp_path / "out", f"--text={write(tmp_path / 'texts')}") == []


def test_examples_are_cut_to_what_is_known_of_the_model(models: SimpleNamespace):
    assert find_model(str(models.classes)).max_length == 12
    assert find_model(str(models.others)).max_length == 64
    assert find_model(str(models.classes), max_length=30).max_length == 30


@pytest.mark.parametrize(
    ("model", "lines", "message"),
    [
        (
            "classes",
            ["a", "b", "c\td"],
            "line 3: 2 columns where there should be one text without tabs; mend the line",
        ),
        (
            "pairs",
            ["a\tb", "c"],
            "line 2: 1 columns where there should be two texts with a tab between them; mend",
        ),
        (
            "others",
            ["", "a\tb", "c"],
            "line 3: 1 columns where there should be two texts with a tab between them",
        ),
        ("others", ["a\tb\tc"], "line 1: 3 columns where there should be two texts with a tab between them"),
    ],
)
def test_a_line_of_other_columns_is_named_and_nothing_is_written(
    models: SimpleNamespace, tmp_path: Path, model: str, lines: list[str], message: str
):
    text = write(tmp_path / "texts", *lines)
    with pytest.raises(UserError) as error:
        predict(getattr(models, model), tmp_path / "out", f"--text={text}", "--batch=1")
    assert str(error.value).startswith(f"{text} {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_length=65"], "--max_length=65 is no length that the model takes; set it to 64 or less"),
        (["--max_length=3"], "--max_length=3 leaves no room for text"),
        (["--batch=0"], "--batch=0 should be 1 or more"),
        (["--text_column=a"], "--text_column=a needs a table, but --text={text} is none of .csv, .tsv"),
        (
            ["--text_pair_column=a"],
            "--text_pair_column names the column of the second text; set --text_column for the first",
        ),
        (["--file=none.csv"], "--file=none.csv is a table; set --text_column"),
        (["--text=none.csv"], "--text=none.csv is a table; set --text_column"),
        (["--text=none.txt"], "none.txt"),
        (
            ["--text=a.csv", "--text_column=a", "--text_pair_column=b"],
            "--model={model} was fine-tuned on single texts",
        ),
        (["--out={text}/out"], "--out={text}/out cannot be written: Not a directory"),
        (["--out={folder}"], "--out={folder} is a folder; name a file"),
        (
            ["--model={bare}"],
            "--model={bare} is a RobertaForMaskedLM, which labels nothing; fine-tune it first",
        ),
        (["--model={folder}"], "{folder} has no config.json"),
        (["--model={folder}/no/such"], "there is no {folder}/no/such; give a folder, or the id of a model"),
        (["--model="], "no --model given"),
    ],
)
def test_a_mistake_is_one_line(models: SimpleNamespace, tmp_path: Path, flags: list[str], message: str):
    text = write(tmp_path / "texts", *TEXTS)
    names = {"text": text, "folder": tmp_path, "bare": models.bare, "model": models.classes}
    with pytest.raises(UserError) as error:
        predict(models.classes, tmp_path / "out", f"--text={text}", *(flag.format(**names) for flag in flags))
    assert message.format(**names) in str(error.value)
    assert "\n" not in str(error.value)
    assert "config." not in str(error.value).replace("config.json", "")


def test_text_that_is_not_utf8_is_named(models: SimpleNamespace, tmp_path: Path):
    (tmp_path / "texts").write_bytes("good\nblåbær\n".encode("latin-1"))
    with pytest.raises(
        UserError, match=r"texts line 2: invalid UTF-8 \(byte 3, 0xe5\); save the text as UTF-8"
    ):
        predict(models.classes, tmp_path / "out", f"--text={tmp_path / 'texts'}")


def test_runs_that_have_no_classifier_say_so(tmp_path: Path):
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="is a run that has not finished; run its command again"):
        find_model(str(tmp_path / "unfinished"))
    (tmp_path / "unfinished" / "model.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"is a run of pretraining, which labels nothing; .*tokens\.py.*: python -m"
    ):
        find_model(str(tmp_path / "unfinished"))


def test_a_closed_pipe_ends_it_without_a_word(models: SimpleNamespace, tmp_path: Path):
    text = write(tmp_path / "texts", *["a line that is longer than it needs to be " * 20] * 400)
    command = [sys.executable, "-m", "finetune.predict", f"--model={models.classes}", f"--text={text}"]
    with subprocess.Popen(
        [*command, "--batch=4", "--compilation_cache="], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"label\tprobability\ttext\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 128 + 13


def test_texts_of_the_command_line_are_labelled_as_lines_of_a_file(models, tmp_path):
    file = write(tmp_path / "texts", TEXTS[0], TEXTS[2])
    expected = predict(models.classes, tmp_path / "by file", f"--file={file}")
    assert predict(models.classes, tmp_path / "by flag", f"--text={file}") == expected
    assert predict(models.classes, tmp_path / "by words", TEXTS[0], TEXTS[2]) == expected
    pair = predict(models.pairs, tmp_path / "pair", "the cat\ta dog")
    assert pair[1][2:] == ["the cat", "a dog"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["a text", "--file=x"], "the text 'a text' and --file=x are given; leave one of them out"),
        (["a text", "--text_column=x"], "the text 'a text' and --text_column=x are given"),
        (["a text", "--text_pair_column=x"], "the text 'a text' and --text_pair_column=x are given"),
        (["--texts=x"], "--texts is not a flag; did you mean --text?"),
        (["--modl=x"], "--modl is not a flag; did you mean --model?"),
        (["--batch=x"], "argument --batch: invalid int value: 'x'; --help lists the flags"),
    ],
)
def test_texts_in_two_ways_and_unknown_flags_are_refused(models, flags, message):
    with pytest.raises(UserError) as error:
        main(["predict", f"--model={models.classes}", *flags])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_texts_are_cut_to_what_the_tokenizer_says_and_on_its_side(models: SimpleNamespace, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(models.others, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"model_max_length": 10, "truncation_side": "left"})
    )
    assert find_model(str(folder)).max_length == 10
    assert find_model(str(folder), max_length=20).max_length == 20
    (folder / FACTS_FILE).write_bytes(Facts(texts=1, max_length=14).as_json())
    assert find_model(str(folder)).max_length == 14
    (folder / FACTS_FILE).unlink()
    texts = [
        "the old horse follows the road and the river slowly today and never sleeps",
        "",
        "a cat",
        *TEXTS,
    ]
    (_, *rows) = predict(folder, tmp_path / "out", f"--text={write(tmp_path / 'texts', *texts)}")
    assert_says(rows, theirs(folder, texts, None, 10))
