"""A run's tokenizer: trained once from the documents that pretraining reads, or copied from where the config says."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from base.errors import UserError
from data.config import DataConfig, FilterConfig
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.run_tokenizer import ensure_tokenizer

REPOSITORY = Path(__file__).parents[2]
CONFIG_FILE = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "steps": 10, "seq_len": 32, "model": {"hidden_size": 8},
        "tokenizer": {"vocab_size": 264}, "data": {"source": "files", "path": "%s", "eval_fraction": 0.0},
    })
"""


@pytest.fixture
def corpus(tmp_path) -> str:
    (tmp_path / "corpus.txt").write_text("rain and wind\n" * 20 + "wind and rain\n" * 20)
    return str(tmp_path / "corpus.txt")


def ensure(workdir, corpus, *, resuming=False, **fields):
    data = DataConfig(source="files", path=corpus, eval_fraction=0.0)
    config = TokenizerConfig(**{"vocab_size": 264, **fields})
    return ensure_tokenizer(
        config, data, epath.Path(workdir), model_max_length=32, progress=False, resuming=resuming
    )


def contents(workdir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (workdir / "tokenizer").iterdir()}


def test_it_is_trained_once_and_then_kept(tmp_path, corpus):
    first = ensure(tmp_path / "run", corpus)
    before = contents(tmp_path / "run")
    again = ensure(tmp_path / "run", corpus)
    assert (
        again.fingerprint() == first.fingerprint() == load(str(tmp_path / "run" / "tokenizer")).fingerprint()
    )
    assert contents(tmp_path / "run") == before


def test_a_tokenizer_made_from_another_config_is_refused(tmp_path, corpus):
    ensure(tmp_path / "run", corpus)
    before = contents(tmp_path / "run")
    with pytest.raises(UserError) as error:
        ensure(tmp_path / "run", corpus, vocab_size=263, nfc=True)
    assert str(error.value) == (
        f"the tokenizer in {tmp_path / 'run' / 'tokenizer'} was made from another config or corpus: "
        "config.tokenizer.vocab_size was 264, is 263; config.tokenizer.nfc was False, is True; "
        "delete that folder, or set another --workdir"
    )
    assert contents(tmp_path / "run") == before


def test_a_tokenizer_made_from_another_corpus_is_refused(tmp_path, corpus):
    ensure(tmp_path / "run", corpus)
    Path(corpus).write_text("snow and ice and rain\n" * 40)
    with pytest.raises(
        UserError, match=r"the corpus \(config.data\) has changed .*; delete that folder"
    ) as error:
        ensure(tmp_path / "run", corpus)
    assert "\n" not in str(error.value)


def test_what_changed_in_the_corpus_is_named_by_its_field(tmp_path, corpus):
    def with_data(**fields):
        data = DataConfig(source="files", path=corpus, **fields)
        return ensure_tokenizer(
            TokenizerConfig(vocab_size=264),
            data,
            epath.Path(tmp_path / "run"),
            model_max_length=32,
            progress=False,
        )

    with_data(eval_fraction=0.0, window=8)
    with_data(eval_fraction=0.0, window=1, streams=2, packing="lines")
    with pytest.raises(UserError) as error:
        with_data(eval_fraction=0.05, filters=FilterConfig(min_chars=3))
    assert str(error.value) == (
        f"the tokenizer in {tmp_path / 'run' / 'tokenizer'} was made from another config or corpus: "
        "config.data.filters.min_chars was 0, is 3; config.data.eval_fraction was 0.0, is 0.05; "
        "delete that folder, or set another --workdir"
    )


def test_a_record_of_a_tokenizer_made_before_fields_of_the_data_were_kept_still_serves(tmp_path, corpus):
    ensure(tmp_path / "run", corpus)
    file = tmp_path / "run" / "tokenizer" / "made_from.json"
    recorded = json.loads(file.read_text())
    del recorded["data"]
    file.write_text(json.dumps(recorded))
    ensure(tmp_path / "run", corpus)
    Path(corpus).write_text("snow and ice and rain\n" * 40)
    with pytest.raises(UserError, match=r"the corpus \(config.data\) has changed"):
        ensure(tmp_path / "run", corpus)


def test_a_copied_tokenizer_is_refused_once_the_config_names_none(tmp_path, corpus):
    path = str(tmp_path / "first" / "tokenizer")
    ensure(tmp_path / "first", corpus)
    ensure(tmp_path / "second", corpus, path=path)
    with pytest.raises(UserError, match=rf"config.tokenizer.path was '{path}', is ''"):
        ensure(tmp_path / "second", corpus)


def test_a_run_that_goes_on_takes_what_is_there_and_needs_no_corpus(tmp_path, corpus):
    first = ensure(tmp_path / "run", corpus)
    Path(corpus).unlink()
    again = ensure(tmp_path / "run", corpus, resuming=True, vocab_size=263)
    assert again.fingerprint() == first.fingerprint()


def test_a_tokenizer_put_there_by_hand_is_taken_as_it_is(tmp_path, corpus):
    first = ensure(tmp_path / "run", corpus)
    (tmp_path / "run" / "tokenizer" / "made_from.json").unlink()
    assert ensure(tmp_path / "run", corpus, vocab_size=263).fingerprint() == first.fingerprint()


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_record_of_how_it_was_made_is_one_line(tmp_path, corpus, text):
    ensure(tmp_path / "run", corpus)
    (tmp_path / "run" / "tokenizer" / "made_from.json").write_text(text)
    with pytest.raises(UserError, match=r"made_from.json, .* is damaged; delete that folder") as error:
        ensure(tmp_path / "run", corpus)
    assert "\n" not in str(error.value)


def test_a_given_tokenizer_is_copied_into_the_run(tmp_path, corpus):
    trained = ensure(tmp_path / "first", corpus)
    path = str(tmp_path / "first" / "tokenizer")
    given = ensure(tmp_path / "second", "/no/such/corpus", path=path)
    assert given.fingerprint() == trained.fingerprint()
    first, second = contents(tmp_path / "first"), contents(tmp_path / "second")
    made_from = json.loads(second.pop("made_from.json"))
    assert (made_from["config"]["path"], made_from["corpus"]) == (path, None)
    assert second == {name: content for name, content in first.items() if name != "made_from.json"}


def test_another_tokenizer_than_the_runs_own_is_refused(tmp_path, corpus):
    ensure(tmp_path / "first", corpus)
    ensure(tmp_path / "second", corpus, add_prefix_space=True)
    with pytest.raises(
        UserError, match=r"is not the tokenizer that this run began with, in .*/first/tokenizer"
    ):
        ensure(tmp_path / "first", corpus, path=str(tmp_path / "second" / "tokenizer"))


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tokenizer", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_trains_and_run_again_leaves_it(tmp_path, corpus):
    (tmp_path / "config.py").write_text(CONFIG_FILE % corpus)
    arguments = (f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}")
    first = command(*arguments)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "run" / "tokenizer"
    assert first.stdout == f"{folder} now holds a tokenizer of 264 tokens\n"
    assert "tokenizer: 40 documents read, 0.0 MB; merging\n" in first.stderr
    before = contents(tmp_path / "run")
    assert b'"model_max_length": 32' in before["tokenizer_config.json"]
    again = command(*arguments)
    assert again.stdout == f"{folder} holds a tokenizer of 264 tokens already; it is left as it is\n"
    assert contents(tmp_path / "run") == before
    other = command(*arguments, "--config.tokenizer.vocab_size=300")
    assert other.returncode == 2
    assert "config.tokenizer.vocab_size was 264, is 300" in other.stderr


def test_the_command_trains_on_what_the_first_phase_reads(tmp_path, corpus):
    phases = f"""
def get_config():
    config = base()
    del config.steps
    own = {{"source": "files", "path": {corpus!r}, "eval_fraction": 0.0}}
    config.phases = ({{"steps": 5, "data": own}}, {{"steps": 5, "seq_len": 64}})
    return config
"""
    file = tmp_path / "config.py"
    file.write_text(CONFIG_FILE.replace("get_config", "base") % "/no/such/corpus" + phases)
    done = command(f"--config={file}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert b'"model_max_length": 64' in contents(tmp_path / "run")["tokenizer_config.json"]
    again = ensure(tmp_path / "run", corpus)  # as the run itself does
    assert again.vocab_size == 264


@pytest.mark.parametrize(
    ("stage", "number"),
    [("reading", signal.SIGINT), ("merging", signal.SIGINT), ("merging", signal.SIGTERM)],
)
def test_a_signal_ends_training_at_once_and_leaves_nothing(tmp_path, stage, number):
    corpus = tmp_path / "corpus.txt"
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=24)) for _ in range(4000)]
    corpus.write_text("".join(f"{word}\n" for word in words) * (60 if stage == "reading" else 20))
    (tmp_path / "config.py").write_text(CONFIG_FILE % corpus)
    code = (
        "import sys, time, tokenizer.training_progress as progress, tokenizer.__main__ as command\n"
        "read, merge = progress.TrainingProgress.read, progress.TrainingProgress.merge\n"
        "def slow(self, size):\n"
        "    read(self, size)\n"
        "    if STAGE == 'reading' and self.documents == 1000: print('reading', flush=True)\n"
        "    if STAGE == 'reading': time.sleep(0.001)\n"
        "def said(self):\n"
        "    merge(self)\n"
        "    print('merging', flush=True)\n"
        "progress.TrainingProgress.read, progress.TrainingProgress.merge = slow, said\n"
        "sys.exit(command.main(['tokenizer', *sys.argv[1:]]))\n"
    ).replace("STAGE", repr(stage))
    arguments = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--config.tokenizer.vocab_size=80000"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == f"{stage}\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number, errors
    assert errors.splitlines()[-1] == "stopped before the tokenizer was written; run the same command again"
    assert not (tmp_path / "run").exists()


def test_the_commands_mistakes_are_one_line_and_status_2(tmp_path, corpus):
    (tmp_path / "config.py").write_text(CONFIG_FILE % corpus)
    config = f"--config={tmp_path / 'config.py'}"
    without = command(config)
    assert (without.returncode, without.stderr) == (
        2,
        "error: no --workdir given; for example --workdir=runs/quickstart\n",
    )
    too_large = command(config, f"--workdir={tmp_path / 'run'}", "--config.tokenizer.vocab_size=300")
    assert too_large.returncode == 2
    assert too_large.stderr.splitlines()[-1].startswith(
        "error: config.tokenizer.vocab_size=300 is more than these 40 documents"
    )
    assert not (tmp_path / "run").exists()
    for field, message in (
        ("steps=3", "config.steps has no effect: python -m tokenizer does not read it; leave it out"),
        ("init_from=x", "config.init_from='x' brings its tokenizer: there is none to train"),
        (
            "data.streams=4",
            "config.data.streams=4 has no effect: python -m tokenizer makes no rows; leave it out",
        ),
        (
            "data.packing=lines",
            "config.data.packing='lines' has no effect: python -m tokenizer makes no rows",
        ),
        ("data.revision=x", "config.data.revision='x' has no effect: config.data.source='files'"),
    ):
        refused = command(config, f"--workdir={tmp_path / 'run'}", f"--config.{field}")
        assert refused.returncode == 2 and message in refused.stderr, refused.stderr


@pytest.mark.parametrize("framed", [True, False])
def test_a_given_tokenizer_without_special_tokens_around_texts_is_named(tmp_path, corpus, caplog, framed):
    ensure(tmp_path / "first", corpus)
    path = tmp_path / "first" / "tokenizer"
    if not framed:
        for name, field in (
            ("tokenizer.json", {"post_processor": None}),
            ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ):
            (path / name).write_text(json.dumps(json.loads((path / name).read_text()) | field))
    ensure(tmp_path / "second", corpus, path=str(path))
    assert ("puts no special tokens around a text" in caplog.text) == (not framed)
