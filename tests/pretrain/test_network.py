"""A network that a checkpoint or a config.json gives: what may be set beside it, at the start and when it goes on."""

import json
from dataclasses import replace

import pytest
from etils import epath

from base.errors import UserError
from base.schema import as_dict, build, restored
from base.set_fields import Given
from pretrain import resume, starting_network
from pretrain.config import PretrainConfig
from pretrain.job import assemble
from pretrain.reports.recorder import Recorder
from pretrain.runtime import workdir as workdirs
from pretrain.runtime.changes import check_unchanged
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.train import train
from tests.finetune.tiny_task import write_model
from tests.tiny import on_one_device, tiny_config, write_corpus


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint of two layers, whose dropout is 0.1."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(tmp_path, model):
    """Assembles a run of `model` with some fields set on the command line and others in the recipe."""
    corpus = write_corpus(tmp_path / "text.txt")

    def assembled(start="init_from", recipe=None, line=None, saved=None, dtype="float32"):
        chosen = {"init_from": str(model)} if start == "init_from" else {"model": {"config_file": str(model)}}
        if start == "config_file":
            chosen["tokenizer"] = {"path": str(model)}
        values = as_dict(tiny_config(corpus))
        values |= {"model": {}, "tokenizer": {}, "dtype": dtype}
        for group in (chosen, {"model": recipe or {}}, {"model": line or {}}):
            for name, value in group.items():
                values[name] = {**values[name], **value} if isinstance(value, dict) else value
        given = Given(
            frozenset(f"model.{name}" for name in recipe or {}),
            frozenset(["init_from", "model.config_file", *(f"model.{name}" for name in line or {})]),
        )
        config = build(PretrainConfig, values)
        return config, assemble(config, epath.Path(tmp_path / "run"), saved, given)

    return assembled


def dropouts(job):
    return job.encoder.hidden_dropout_prob, job.encoder.attention_probs_dropout_prob


@pytest.mark.parametrize("start", ["init_from", "config_file"])
def test_dropout_is_the_checkpoints_unless_it_is_set(run, start):
    assert dropouts(run(start)[1]) == (0.1, 0.1)
    assert dropouts(run(start, line={"attention_probs_dropout_prob": 0.0})[1]) == (0.1, 0.0)
    assert dropouts(run(start, recipe={"hidden_dropout_prob": 0.25})[1]) == (0.25, 0.1)


def test_with_dropout_off_the_checkpoint_reaches_cudnn(run, monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    off = {"attention": "cudnn", "attention_probs_dropout_prob": 0.0}
    assert run(line=off, dtype="bfloat16")[1].encoder.attention == "cudnn"
    with pytest.raises(UserError, match=r"dropout of attention weights, which is 0\.1"):
        run(line={"attention": "cudnn"}, dtype="bfloat16")


@pytest.mark.parametrize("start", ["init_from", "config_file"])
@pytest.mark.parametrize(
    ("name", "value", "theirs"),
    [
        ("num_hidden_layers", 4, "2"),
        ("num_hidden_layers", 12, "2"),  # the default, but set
        ("hidden_size", 64, "32"),
        ("vocab_size", 8000, "320"),
        ("family", "bert", "'roberta'"),
        ("hidden_act", "relu", "'gelu'"),
        ("layer_norm_eps", 1e-12, "1e-05"),
        ("tie_word_embeddings", False, "True"),
        ("initializer_range", 0.5, "0.2"),
    ],
)
def test_a_network_that_is_set_otherwise_is_refused(run, start, name, value, theirs):
    with pytest.raises(UserError) as error:
        run(start, line={name: value})
    source = "config.init_from=" if start == "init_from" else "config.model.config_file="
    for part in (f"config.model.{name}={value!r} has no effect", source, f"{name}={theirs}"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_set_as_the_checkpoint_has_it_is_let_be(run):
    job = run(line={"num_hidden_layers": 2, "hidden_size": 32, "vocab_size": 0, "family": "roberta"})[1]
    assert (job.encoder.num_hidden_layers, job.notes) == (2, ())


def test_a_recipe_gives_way_to_a_start_on_the_command_line_and_the_config_says_what_is_trained(run):
    job = run(recipe={"num_hidden_layers": 4, "intermediate_size": 64})[1]
    (note,) = job.notes
    for part in (
        "config.model.num_hidden_layers=4 of the recipe gives way to 2",
        "config.model.intermediate_size=64 of the recipe gives way to 48",
    ):
        assert part in note
    model = job.given.model
    assert (model.num_hidden_layers, model.intermediate_size, model.vocab_size) == (2, 48, 320)
    assert job.given.model.hidden_dropout_prob is None


def test_what_gives_way_is_said_before_anything_is_compiled(run, tmp_path, monkeypatch, caplog):
    def compile_(*arguments):
        raise ArithmeticError

    monkeypatch.setattr("pretrain.train._Pretraining", compile_)
    config, _ = run(recipe={"num_hidden_layers": 4})
    given = Given(
        frozenset(["model.num_hidden_layers"]), frozenset(["init_from"]), ("a field has no effect",)
    )
    with caplog.at_level("INFO"), pytest.raises(ArithmeticError):
        train(config, epath.Path(tmp_path / "another"), given=given)
    for part in ("a field has no effect", "config.model.num_hidden_layers=4"):
        assert part in caplog.text


def test_how_the_network_runs_can_always_be_set(run):
    encoder = run(line={"remat": True, "scan_unroll": 2, "attention": "xla"})[1].encoder
    assert (encoder.remat, encoder.scan_unroll, encoder.attention) == ("full", 2, "xla")


def begun(tmp_path, job, **dropout):
    """What a checkpoint remembers of a run that has begun, whose model.json has such dropout."""
    from pretrain.models.huggingface import config_dict

    network = config_dict(replace(job.encoder, **dropout))
    (tmp_path / "run" / workdirs.MODEL_FILE).write_text(json.dumps(network))
    return {"config": as_dict(job.given), "steps": 8}


def test_dropout_that_changes_on_resume_acts(run, tmp_path):
    saved = begun(tmp_path, run()[1])
    config, job = run(line={"hidden_dropout_prob": 0.3}, saved=saved)
    assert dropouts(job) == (0.3, 0.1)
    changes = check_unchanged(resume.RULES, saved["config"], config, accept=True)
    assert changes == {"model.hidden_dropout_prob": (None, 0.3)}
    with pytest.raises(UserError, match=r"config\.model\.hidden_dropout_prob was None, is 0\.3"):
        check_unchanged(resume.RULES, saved["config"], config, accept=False)


def test_dropout_that_is_unset_on_resume_is_asked_for(run, tmp_path):
    saved = begun(tmp_path, run(line={"hidden_dropout_prob": 0.3})[1])
    assert dropouts(run(line={"hidden_dropout_prob": 0.3}, saved=saved)[1]) == (0.3, 0.1)
    with pytest.raises(UserError, match=r"config\.model\.hidden_dropout_prob was 0\.3 and is not set now"):
        run(saved=saved)


@pytest.mark.parametrize("rate", [0.3, None])
def test_dropout_of_a_change_that_was_never_saved_is_forgotten(run, tmp_path, rate):
    """The run was killed after the change had been written to model.json, before its next checkpoint."""
    line = {} if rate is None else {"hidden_dropout_prob": rate}
    job = run(line=line)[1]
    own = {"hidden_dropout_prob": rate or 0.1, "attention_probs_dropout_prob": 0.1}
    assert starting_network.dropout(job.encoder) == own
    saved = begun(tmp_path, job, hidden_dropout_prob=0.5) | {"local": [], "dropout": own}
    config, resumed = run(line=line, saved=saved)
    assert dropouts(resumed) == (rate or 0.1, 0.1)
    assert check_unchanged(resume.RULES, saved["config"], config, accept=False) == {}


@on_one_device()
def test_the_files_of_a_killed_run_are_of_its_checkpoint(tmp_path, model, monkeypatch):
    corpus, workdir = write_corpus(tmp_path / "text.txt"), epath.Path(tmp_path / "run")
    begun, changed = (
        tiny_config(
            corpus, steps=steps, init_from=str(model), model={"hidden_dropout_prob": rate}, tokenizer={}
        )
        for steps, rate in ((2, 0.3), (3, 0.5))
    )

    def killed(*arguments, **more):
        raise ArithmeticError

    train(begun, workdir)
    with monkeypatch.context() as patch, pytest.raises(ArithmeticError):
        patch.setattr(Recorder, "step", killed)
        train(changed, workdir, accept_changes=True)
    assert json.loads((workdir / workdirs.MODEL_FILE).read_text())["hidden_dropout_prob"] == 0.3
    assert Checkpointer(workdir).read_run()["dropout"]["hidden_dropout_prob"] == 0.3
    train(changed, workdir, accept_changes=True)
    assert json.loads((workdir / workdirs.MODEL_FILE).read_text())["hidden_dropout_prob"] == 0.5
    assert Checkpointer(workdir).read_run()["dropout"]["hidden_dropout_prob"] == 0.5


def test_a_dropout_that_is_set_counts_where_the_checkpoint_has_no_rates(run, tmp_path):
    line = {"hidden_dropout_prob": 0.3}
    saved = begun(tmp_path, run(line=line)[1], hidden_dropout_prob=0.5) | {"local": []}
    assert dropouts(run(line=line, saved=saved)[1]) == (0.3, 0.1)


def test_a_run_of_before_keeps_its_dropout_when_it_goes_on_again(run, tmp_path):
    recipe = {"hidden_dropout_prob": 0.3}
    saved = begun(tmp_path, run(recipe=recipe)[1], hidden_dropout_prob=0.2)
    job = run(recipe=recipe, saved=saved)[1]
    assert dropouts(job) == (0.2, 0.1)
    again = {
        "config": as_dict(job.given),
        "steps": 8,
        "local": [],
        "dropout": starting_network.dropout(job.encoder),
    }
    assert dropouts(run(recipe=recipe, saved=again)[1]) == (0.2, 0.1)


def test_a_run_of_before_goes_on_with_the_dropout_that_it_had(run, tmp_path):
    """Its config has numbers that were passed over; what counted is in its model.json."""
    saved = begun(tmp_path, run()[1], hidden_dropout_prob=0.2)
    saved["config"]["model"] |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.0}
    saved["config"]["model"] |= {"num_hidden_layers": 12, "hidden_size": 768, "vocab_size": 0}
    config, job = run(recipe={"attention_probs_dropout_prob": 0.0}, saved=saved)
    assert check_unchanged(resume.RULES, saved["config"], config, accept=False) == {}
    assert dropouts(job) == (0.2, 0.1)


def test_a_new_network_of_before_goes_on_without_a_change(tmp_path):
    config = tiny_config(tmp_path / "text.txt")
    saved = as_dict(config)
    saved["model"] |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    assert check_unchanged(resume.RULES, saved, config, accept=False) == {}


def test_a_dropout_that_a_family_has_not_by_default_is_not_lost_by_unsetting_it(tmp_path):
    with_dropout = {"family": "modernbert", "hidden_dropout_prob": 0.1}
    saved = as_dict(tiny_config(tmp_path / "text.txt", model=with_dropout))
    unset = tiny_config(tmp_path / "text.txt", model={"family": "modernbert"})
    with pytest.raises(UserError, match=r"config\.model\.hidden_dropout_prob was 0\.1, is None"):
        check_unchanged(resume.RULES, saved, unset, accept=False)


def test_the_objective_outside_of_phases_is_that_of_the_whole_run(tmp_path):
    saved = as_dict(tiny_config(tmp_path / "text.txt"))
    changed = tiny_config(tmp_path / "text.txt", objective={"name": "clm"})
    with pytest.raises(UserError, match=r"the objective outside of phases of a run cannot change"):
        check_unchanged(resume.RULES, saved, changed, accept=True)


def test_a_run_may_have_any_activation_that_networks_have(tmp_path):
    saved = as_dict(tiny_config(tmp_path / "text.txt"))
    saved["model"]["hidden_act"] = "gelu_pytorch_tanh"
    assert restored(PretrainConfig, saved).model.hidden_act == "gelu_pytorch_tanh"


@pytest.mark.parametrize(
    "change",
    [
        {"init_from": "elsewhere"},
        {"tokenizer": {"vocab_size": 400}},
        {"tokenizer": {"path": "elsewhere"}},
        {"model": {"initializer_range": 0.5}},
        {"model": {"position_init": "sinusoidal"}},
        {"model": {"word_init": "cooccurrence"}},
        {"model": {"config_file": "elsewhere"}},
    ],
    ids=str,
)
def test_what_only_the_start_reads_cannot_change_whatever_is_accepted(tmp_path, change):
    config, changed = (tiny_config(tmp_path / "text.txt", **each) for each in ({}, change))
    with pytest.raises(UserError, match="the start of a run cannot change"):
        check_unchanged(resume.RULES, as_dict(config), changed, accept=True)


def test_a_start_may_be_written_otherwise_and_need_not_exist_any_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "runs")

    def compare(old, new):
        was, now = (tiny_config(tmp_path / "text.txt", init_from=each) for each in (old, new))
        return check_unchanged(resume.RULES, as_dict(was), now, accept=False)

    for other in ("./runs/base", "runs/base/", str(tmp_path / "runs" / "base"), "link/base"):
        assert compare("runs/base", other) == {}
    for other in ("runs/best", "gs://runs/base", ""):
        with pytest.raises(
            UserError, match=r"put the old value back \(that folder need not exist any more\), or"
        ):
            compare("runs/base", other)
    with pytest.raises(UserError, match="put it back"):
        check_unchanged(
            resume.RULES,
            as_dict(tiny_config(tmp_path)),
            tiny_config(tmp_path, tokenizer={"vocab_size": 400}),
            accept=True,
        )


def test_a_field_that_nothing_read_may_be_unset_on_resume(tmp_path):
    config = tiny_config(tmp_path / "text.txt", optimizer={"muon_momentum": 0.5}, data={"revision": "main"})
    changed = tiny_config(tmp_path / "text.txt")
    assert check_unchanged(resume.RULES, as_dict(config), changed, accept=False) == {}
