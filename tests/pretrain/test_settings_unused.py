"""Settings of pretraining that could not act are refused in one line, or give way; some are seen at work here."""

import contextlib

import pytest
from etils import epath

from base.command_line import read
from base.errors import UserError
from data.batches import open_batches
from pretrain.__main__ import main
from pretrain.config import PretrainConfig
from pretrain.job import assemble
from pretrain.runtime import processes, train_command
from pretrain.runtime.profiling import profile
from pretrain.unused_fields import unused_fields
from tests.finetune.tiny_task import write_model
from tests.tiny import tiny_config, write_corpus
from tokenizer.load import load

RECIPE = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({'steps': 8, 'data': {'source': 'files', 'path': 'text.txt'}, **%s})
"""

REFUSED = {
    "tokenizer.vocab_size=8000": "tokenizer.path=x",
    "tokenizer.min_frequency=3": "tokenizer.path=x",
    "tokenizer.sample_documents=3": "init_from=x",
    "tokenizer.nfc=true": "tokenizer.path=x",
    "tokenizer.add_prefix_space=true": "init_from=x",
    "model.position_init=sinusoidal": "init_from=x",
    "model.word_init=cooccurrence": "init_from=x",
    "init_tiled=true": "seq_len=16",
    "init_vocabulary=pieces": "seq_len=16",
    "model.config_file=x": "init_from=x init_tiled=true",
    "model.scan_unroll=0": "model.remat=true",
    "tokenizer.sample_bytes=3": "data.source=prepared",
    "tokenizer.vocab_size=600": "data.source=prepared",
    "tokenizer.sample_from=corpus": "tokenizer.nfc=true",
    "data.window=3": "data.source=prepared",
    "data.temperature=0.5": "data.source=files",
    "data.filters.min_chars=3": "data.source=prepared",
    "data.path=x": "data.source=hub",
    "data.name=x": "data.source=files",
    "data.subset=x": "data.source=files",
    "data.split=test": "data.source=pydoc data.path=",
    "data.revision=x": "data.source=tfds data.path=",
    "data.text_field=body": "data.source=oscar",
    "data.txt_documents=blank_line": "data.source=hub data.path=",
    "data.data_dir=x": "data.source=hub data.path=",
    "data.filters.min_harmful_pp=2": "data.source=files",
    "data.filters.min_chars=2": "data.source=mix data.path=",
    "data.bad_documents=skip": "data.source=mix data.path=",
    "data.weight=2": "data.source=files",
    "data.eval_fraction=0.3": "data.eval_source.path=x data.eval_source.source=files",
    "data.eval_source.name=x": "data.eval_source.path=x data.eval_source.source=files",
    "data.eval_source.weight=2": "data.eval_source.path=x data.eval_source.source=files",
    "optimizer.muon_momentum=0.9": "optimizer.name=lamb",
    "optimizer.matrix_weight_decay=0.1": "optimizer.name=adamw",
    "optimizer.normuon_beta2=0.9": "optimizer.name=muon",
    "optimizer.orthogonal_dtype=float32": "optimizer.name=adamw",
    "optimizer.orthogonal_steps=newton_schulz": "optimizer.name=adamw",
    "optimizer.orthogonal_per_head=true": "optimizer.name=adamw",
    "optimizer.moment_dtype=bfloat16": "optimizer.name=adafactor",
    "optimizer.batch_exponent=0.3": "optimizer.reference_batch=0",
    "init_weights=average": "init_from=",
    "optimizer.beta1=0.5": "optimizer.name=adafactor",
    "optimizer.beta2=0.5": "optimizer.name=adafactor",
    "optimizer.eps=0.5": "optimizer.name=adafactor",
    "schedule.final_fraction=0.1": "schedule.name=constant",
    "schedule.decay_fraction=0.2": "schedule.name=linear",
    "dropout_rng=rbg": "model.hidden_dropout_prob=0 model.attention_probs_dropout_prob=0",
    "eval.steps=3": "eval.every=0",
    "eval.masking_rate=0.3": "eval.every=0",
    "eval.masking_rate=0.2": "objective.name=clm",
    "masking.rate=0.3": "objective.name=clm",
    "masking.final_rate=0.2": "masking.rate_shape=constant",
    "masking.rate_levels=3": "masking.rate_shape=linear",
    "batch_warmup_from=8": "batch_warmup_steps=0",
    "masking.whole_word=true": "objective.name=clm",
    "model.narrow_layers=1": "objective.name=clm",
    "spike.window=30": "on_nonfinite=rewind",
    "spike.skip=30": "spike.factor=0",
    "spike.max_rewinds=3": "on_nonfinite=skip",
    "max_skipped=3": "on_nonfinite=rewind",
    "log.profile_start=3": "log.profile_steps=0",
    "log.profile_start=8": "log.profile_steps=3",
}
"""Fields that have no effect beside others: both on the command line."""


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_could_not_act_is_refused(tmp_path, field):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE % "{}")
    overrides = [f"--config.{each}" for each in (*REFUSED[field].split(), field)]
    with pytest.raises(UserError) as error:
        read(
            PretrainConfig, ["x", f"--config={recipe}", *overrides], lambda values: None, unused=unused_fields
        )
    assert str(error.value).startswith(f"config.{field.partition('=')[0]}=")
    assert " has no effect: " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "name", "value"),
    [
        ("seq_len=64", "seq_len", 16),
        ("global_batch=64", "global_batch", 16),
        ("grad_accum=2", "grad_accum", 4),
        ("masking.rate=0.3", "masking_rate", 0.2),
        ("data.window=3", "data", {"source": "pydoc"}),
        ("objective.name=clm", "objective", "mlm"),
        ("masking.rate_shape=linear", "masking_rate", 0.2),
        ("optimizer.learning_rate=0.1", "learning_rate", 0.2),
        ("schedule.name=cosine", "schedule", "constant"),
        ("data.packing=lines", "packing", "documents"),
        ("model.global_rope_theta=5.0", "global_rope_theta", 6.0),
        ("model.local_rope_theta=5.0", "local_rope_theta", 6.0),
    ],
)
def test_a_field_that_every_phase_replaces_is_refused_and_one_that_some_replace_acts(
    tmp_path, field, name, value
):
    recipe = tmp_path / "recipe.py"
    for own, refused in (({name: value}, True), ({}, False)):
        phases = [{"steps": 3, name: value}, {"steps": 4, **own}]
        recipe.write_text(RECIPE % {"phases": phases, "model": {"family": "modernbert"}})
        arguments = ["x", f"--config={recipe}", "--config.steps=0", f"--config.{field}"]
        if refused:
            with pytest.raises(UserError, match="every phase has its own"):
                read(PretrainConfig, arguments, lambda values: None, unused=unused_fields)
        else:
            read(PretrainConfig, arguments, lambda values: None, unused=unused_fields)


@pytest.mark.parametrize(
    ("field", "phases", "message"),
    [
        ("masking.rate=0.3", ["clm", "mlm"], ""),
        ("masking.rate=0.3", ["clm", "clm"], "the run learns clm, which hides no tokens"),
        ("eval.masking_rate=0.3", ["clm", None], ""),
        ("eval.masking_rate=0.3", ["clm", "clm"], "the run learns clm, which hides no tokens"),
    ],
)
def test_fields_of_masks_act_where_a_phase_hides_tokens(tmp_path, field, phases, message):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE % {"phases": [{"steps": 3, "objective": name} for name in phases]})
    arguments = ["x", f"--config={recipe}", "--config.steps=0", f"--config.{field}"]
    if message:
        with pytest.raises(UserError, match=message):
            read(PretrainConfig, arguments, lambda values: None, unused=unused_fields)
    else:
        read(PretrainConfig, arguments, lambda values: None, unused=unused_fields)


def test_a_mask_rate_of_a_phase_that_hides_no_tokens_is_refused(tmp_path):
    recipe = tmp_path / "recipe.py"
    phases = [{"steps": 3, "objective": "clm", "masking_rate": 0.3}, {"steps": 3, "masking_rate": 0.4}]
    recipe.write_text(RECIPE % {"phases": phases, "steps": None})
    with pytest.raises(
        UserError, match=r"config\.phases\[0\]\.masking_rate=0\.3 has no effect: the phase learns clm"
    ):
        read(PretrainConfig, ["x", f"--config={recipe}"], lambda values: None, unused=unused_fields)


def test_a_mask_rate_that_every_phase_of_masks_replaces_is_refused(tmp_path):
    recipe = tmp_path / "recipe.py"
    phases = [{"steps": 3, "objective": "clm"}, {"steps": 3, "masking_rate": 0.4}]
    recipe.write_text(RECIPE % {"phases": phases})
    arguments = ["x", f"--config={recipe}", "--config.steps=0", "--config.masking.rate=0.3"]
    with pytest.raises(UserError, match=r"every phase has its own; set config\.phases\[1\]\.masking_rate"):
        read(PretrainConfig, arguments, lambda values: None, unused=unused_fields)


def test_a_recipes_field_gives_way_to_the_command_line(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE % {"tokenizer": {"vocab_size": 8000}, "optimizer": {"beta1": 0.5}})
    line = read(
        PretrainConfig,
        ["x", f"--config={recipe}", "--config.tokenizer.path=x", "--config.optimizer.name=adafactor"],
        lambda values: None,
        unused=unused_fields,
    )
    assert (line.config.tokenizer.vocab_size, line.config.optimizer.beta1) == (50265, 0.9)
    assert len(line.given.notes) == 2 and "config.tokenizer.vocab_size=8000" in line.given.notes[0]


@pytest.mark.parametrize(
    ("recipe", "line", "path"),
    [
        ({"tokenizer": {"path": "theirs"}}, ["init_from=x"], ""),
        ({"tokenizer": {"path": "theirs"}, "init_from": "y"}, ["init_from=x"], ""),
        ({"tokenizer": {"path": "theirs"}, "init_from": "y"}, [], "theirs"),
        ({}, ["init_from=x", "tokenizer.path=mine"], "mine"),
        ({"init_from": "y"}, ["tokenizer.path=mine"], "mine"),
    ],
)
def test_a_recipes_tokenizer_gives_way_to_a_start_on_the_command_line(tmp_path, recipe, line, path):
    file = tmp_path / "recipe.py"
    file.write_text(RECIPE % recipe)
    arguments = ["x", f"--config={file}", *(f"--config.{each}" for each in line)]
    found = read(PretrainConfig, arguments, lambda values: None, unused=unused_fields)
    assert found.config.tokenizer.path == path
    note = "without effect in the recipe: config.tokenizer.path='theirs'; config.init_from='x' brings its tokenizer"
    assert found.given.notes == (() if path else (note,))


def test_a_field_of_the_command_reaches_it(tmp_path, monkeypatch):
    recipe, reached = tmp_path / "recipe.py", []
    recipe.write_text(RECIPE % "{}")

    def stop(*arguments, **named):
        raise UserError("far enough")

    monkeypatch.setattr(processes, "join", lambda: reached.append("distributed"))
    monkeypatch.setattr(train_command, "log_to_stderr", lambda: None)
    monkeypatch.setattr(train_command, "use_compilation_cache", reached.append)
    monkeypatch.setattr("pretrain.__main__.train", stop)
    for fields, found in (
        ([], ["~/.cache/unmask/xla"]),
        (["distributed", "compilation_cache=x"], ["distributed", "x"]),
    ):
        reached.clear()
        with pytest.raises(UserError, match="far enough"):
            main(["x", f"--config={recipe}", "--workdir=w", *(f"--config.{each}" for each in fields)])
        assert reached == found


def test_the_profile_starts_where_it_is_set(tmp_path, monkeypatch):
    starts, step = [], [0]
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: starts.append(step[0]))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: None)
    for start in (0, 3):
        log = tiny_config(tmp_path / "text.txt", log={"profile_start": start, "profile_steps": 1}).log
        with contextlib.ExitStack() as profiling:
            for step[0] in range(5):
                profile(profiling, log, step[0], epath.Path(tmp_path))
    assert starts == [0, 3]


def test_a_profile_that_starts_after_the_last_epoch_is_noted(tmp_path):
    write_corpus(tmp_path / "text.txt")
    for start, noted in ((100000, True), (0, False)):
        config = tiny_config(
            tmp_path / "text.txt", steps=0, epochs=1, log={"profile_start": start, "profile_steps": 2}
        )
        job = assemble(config, epath.Path(tmp_path / "run"), None)
        note = f"without effect: config.log.profile_start=100000; the run ends before, at step {job.steps}"
        assert job.notes == ((note,) if noted else ())


def test_prefetch_is_how_far_batches_are_made_ahead(tmp_path, monkeypatch):
    write_corpus(tmp_path / "text.txt")
    write_model(tmp_path)
    tokenizer, made = load(str(tmp_path / "model")), []

    def ahead(prefetch):
        config = tiny_config(tmp_path / "text.txt", data={"prefetch": prefetch})
        from data import batches as module

        class Queue(module.queue.Queue):
            def __init__(self, maxsize=0):
                made.append(maxsize)
                super().__init__(maxsize)

        monkeypatch.setattr(module.queue, "Queue", Queue)
        with open_batches(
            config.data, tokenizer.encode, tokenizer.special, seed=0, seq_len=32, global_batch=8,
            rows=tuple(range(8)), states=None, epochs=None,
        ) as found:  # fmt: skip
            next(found)
        return made[-1]

    assert ahead(2) != ahead(5)
