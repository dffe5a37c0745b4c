"""`python -m benchmarks.recipes`: equal scores for ours and PyTorch's networks, runs that go on, and what has won."""

import gzip
import json
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaForMaskedLM, set_seed

from base import kept_memory
from benchmarks.recipes import __main__ as command
from benchmarks.recipes import ours, peers, report, verdicts
from benchmarks.recipes.rungs import OURS, RUNGS, Peer, Rung, fields_of
from benchmarks.recipes.runs import Clock, Run
from benchmarks.recipes.text import IGNORED, prepare
from benchmarks.recipes.text import _documents as documents_of
from data.held_out_documents import HeldOut
from pretrain import checks
from pretrain.models import build
from pretrain.models.huggingface import load_pretrained
from pretrain.reports.recorder import Recorder
from pretrain.runtime.checkpointer import Checkpointer
from pretrain.train import _PhaseSteps
from tests.tiny import on_one_device, write_corpus


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A small text of which four documents in a hundred are held out."""
    folder = tmp_path_factory.mktemp("text")
    lines = write_corpus(folder / "lines.txt", 300).read_text().splitlines()
    (folder / "corpus.txt").write_text("\n\n".join(lines))
    return prepare(
        "tiny", folder / "corpus.txt", folder / "made", vocab_size=300, seq_len=32, rows=16, megabytes=1
    )


def source(text):
    return text.folder.parent / "corpus.txt"


def options(text, out, *more):
    return command.parse([f"--text=tiny={source(text)}", f"--out={out}", "--small", *more])


def test_no_run_trains_on_a_held_out_document(text):
    training = text.train.read_text().split("\n\n")
    documents = source(text).read_text().split("\n\n")
    held = [document for document in documents if HeldOut(0.02)(document)]
    assert held and len(training) == len(documents) - len(held)
    assert not set(held) & set(training)


def test_the_masks_are_written_once_and_most_predicted_tokens_are_hidden(text):
    tokens, labels = text.held_out()
    predicted = labels != IGNORED
    assert tokens.shape[1] == 32 and 0.1 < predicted.mean() < 0.2
    assert 0.7 < (tokens[predicted] == 4).mean() < 0.9  # <mask>
    assert (tokens[~predicted] != 4).all()
    assert text.facts["predictions"] == predicted.sum()


def test_a_text_is_encoded_between_special_tokens_so_that_a_run_can_be_fine_tuned(text):
    ids = AutoTokenizer.from_pretrained(text.tokenizer)("a word").input_ids
    assert (ids[0], ids[-1]) == (0, 2) and len(ids) > 2


def test_a_text_without_blank_lines_has_a_document_on_each_line(text, tmp_path):
    lines = (text.folder.parent / "lines.txt").read_text()
    (tmp_path / "lines.txt.gz").write_bytes(gzip.compress(lines.encode()))
    expected = lines.splitlines()
    assert list(documents_of(text.folder.parent / "lines.txt")) == expected
    assert list(documents_of(tmp_path)) == list(documents_of(source(text))) == expected


def test_ours_and_pytorch_have_the_same_score_for_the_same_weights(text, tmp_path):
    set_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = RobertaForMaskedLM(
        RobertaConfig(vocab_size=300, **sizes, max_position_embeddings=40, initializer_range=0.3)
    )
    model.save_pretrained(tmp_path)
    encoder, params = load_pretrained(tmp_path)
    held_out = text.held_out()
    found = ours.scorer(build(encoder), *held_out)(params)
    assert found == pytest.approx(peers.score(model, *held_out), rel=1e-5)
    assert found[0] > 6  # the weights are large: the loss is not that of equal probabilities


def test_documents_that_share_a_row_do_not_see_each_other_in_transformers_modernbert():
    set_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    names = (
        "model.hidden_size",
        "model.num_hidden_layers",
        "model.num_attention_heads",
        "model.intermediate_size",
    )
    model = peers.network(Peer("modernbert", 1e-3), dict(zip(names, sizes.values())), 50).eval()
    tokens = torch.randint(5, 50, (1, 12))
    tokens[0, [0, 5]] = 0  # two documents
    changed = tokens.clone()
    changed[0, 1:5] = 7
    masks = peers.masks_of_documents(tokens, 0, 64)
    before, after = (model(input_ids=each, attention_mask=masks).logits for each in (tokens, changed))
    assert torch.equal(before[0, 5:], after[0, 5:]) and not torch.allclose(before[0, :5], after[0, :5])
    narrow = peers.masks_of_documents(tokens, 0, 2)
    assert narrow["sliding_attention"][0, 0, 8].nonzero().flatten().tolist() == [6, 7, 8, 9, 10]
    assert narrow["full_attention"][0, 0, 8].nonzero().flatten().tolist() == list(range(5, 12))


def test_a_run_of_ours_is_scored_at_every_point(text, tmp_path, monkeypatch):
    for owner, name in ((Recorder, "step"), (_PhaseSteps, "compile"), (Checkpointer, "save")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # the run replaces it
    run = command.run_of(RUNGS["base"], 0, text, options(text, tmp_path))
    run.write(tmp_path / "run")
    with on_one_device():
        result = ours.train_and_score(run, tmp_path / "run")
    assert [(point["step"], point["tokens"]) for point in result["curve"]] == [(4, 1024), (8, 2048)]
    assert result["curve"][1]["loss"] < result["curve"][0]["loss"] < math.log(300) + 0.2
    assert result["curve"][1]["wall"] > result["curve"][0]["wall"] > 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["rung"] == "base"
    assert len(list((tmp_path / "run/workdir/checkpoints").iterdir())) == 1  # the last one


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_a_baseline_in_float32_makes_its_updates_orthogonal_as_torchs_muon_does(monkeypatch, shape):
    import torch.optim._muon as muon

    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    numbers = ((3.4445, -4.7750, 2.0315), 5, 1e-7)
    theirs = muon._zeropower_via_newtonschulz(gradient, *numbers).float()
    monkeypatch.setattr(muon, "_zeropower_via_newtonschulz", muon._zeropower_via_newtonschulz)
    matrix = torch.nn.Parameter(torch.zeros(shape))
    model = torch.nn.ModuleDict({"layers": torch.nn.ParameterDict({"map": matrix})})
    peers.optimizers(model, Peer("modernbert", 1e-3, muon=True))
    mine = muon._zeropower_via_newtonschulz(gradient, *numbers)
    assert mine.dtype == torch.float32 and theirs.std() > 0.1
    torch.testing.assert_close(mine, theirs, atol=0.02, rtol=0)  # bfloat16 has 8 bits
    assert not torch.equal(mine, theirs)


def test_ours_runs_with_the_memory_settings_of_pretraining_and_a_baseline_as_pytorch_starts(text, tmp_path):
    mine, peer = (
        command.environment(command.run_of(RUNGS[name], 0, text, options(text, tmp_path)))
        for name in ("base", "torch-best-0.001")
    )
    assert mine[kept_memory.TUNABLES] == kept_memory.tunables()
    assert peer.get(kept_memory.TUNABLES) == os.environ.get(kept_memory.TUNABLES)


@pytest.mark.parametrize("name", ["hf-roberta-bf16-0.001", "torch-best-0.001"])
def test_a_baseline_that_was_stopped_goes_on_to_the_same_losses(text, tmp_path, name):
    run = command.run_of(RUNGS[name], 0, text, options(text, tmp_path))
    run.write(tmp_path / "whole")
    whole = peers.train_and_score(run, tmp_path / "whole")
    assert [(point["step"], point["tokens"]) for point in whole["curve"]] == [(4, 1024), (8, 2048)]
    assert whole["curve"][1]["loss"] < whole["curve"][0]["loss"]
    run.write(tmp_path / "stopped")
    original = peers._save

    def save_and_stop(*arguments):
        original(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(peers, "_save", save_and_stop)
        peers.train_and_score(run, tmp_path / "stopped")
    resumed = peers.train_and_score(run, tmp_path / "stopped")
    assert [p["loss"] for p in resumed["curve"]] == [p["loss"] for p in whole["curve"]]


def test_a_field_can_be_set_for_all_rungs(text, tmp_path):
    given = options(text, tmp_path, "--set=model.num_hidden_layers=3", "--set=masking.rate=0.3")
    mine, peer = (command.run_of(RUNGS[name], 0, text, given) for name in ("rate40", "torch-best-0.001"))
    assert (mine.fields["masking.rate"], mine.fields["model.num_hidden_layers"]) == (0.3, 3)
    assert (peer.sizes["model.num_hidden_layers"], peer.sizes["model.hidden_size"]) == (3, 32)


@pytest.mark.parametrize("rung", OURS, ids=lambda rung: rung.name)
def test_every_rung_is_a_config_that_can_run(text, tmp_path, rung):
    run = Run(str(text.folder), rung.name, 0, 1_000_000, 8, fields=fields_of(rung))
    config = ours.config_of(run, text)
    checks.check_fields(config)
    steps = sum(phase.steps for phase in config.phases) or config.steps
    assert ours.tokens_at(config, steps) == pytest.approx(1_000_000, rel=0.01)
    assert config.schedule.warmup_steps in (round(0.05 * steps), round(0.01 * steps))
    assert rung.on in (*RUNGS, "")


def result(rung, seed, losses, seconds=1.0, peer=None):
    curve = [
        {
            "step": n,
            "tokens": 100 * n,
            "wall": seconds * n,
            "processor": 2 * seconds * n,
            "loss": loss,
            "accuracy": 0.1,
        }
        for n, loss in enumerate(losses, 1)
    ]
    known = {
        "seconds_with_all_else": 9.0,
        "compile_seconds": 1.0,
        "load": 0.5,
        "machine": "a machine",
        "parameters": 10,
    }
    return {"rung": rung, "seed": seed, "curve": curve, "peer": peer, **known}


RESULTS = {
    "base": [result("base", 0, [8, 7.0]), result("base", 1, [8, 7.2])],
    "muon": [result("muon", 0, [7, 6.5])],
    "sine": [result("sine", 0, [7.9, 7.0])],
    "init05": [result("init05", 0, [9, 8])],
    "hf-roberta-0.001": [result("hf-roberta-0.001", 0, [8, 7.5], 4.0, {})],
    "hf-roberta-0.003": [result("hf-roberta-0.003", 0, [8, 7.6], 4.0, {})],
}
FACTS = {"name": "tiny", "characters": 5_000_000, "predictions": 1000, "frequency_loss": 7.1}


def test_a_rung_has_won_or_lost_at_two_standard_deviations_of_a_difference():
    pooled = verdicts.pooled_spread(RESULTS)
    assert pooled == pytest.approx(0.1 * math.sqrt(2))
    found = {
        name: verdicts.difference(RESULTS[name], RESULTS["base"], pooled)
        for name in ("muon", "sine", "init05")
    }
    assert found["muon"].loss == pytest.approx(-0.6)
    assert found["muon"].deviation == pytest.approx(pooled * math.sqrt(1 + 1 / 2))
    assert [each.verdict for each in found.values()] == ["won", "nil", "lost"]
    assert verdicts.difference(RESULTS["muon"], RESULTS["sine"], 0.0).verdict == "unknown"


def test_a_baselines_loss_is_reached_between_two_scores():
    run = RESULTS["muon"][0]
    assert verdicts.reached(run, 6.75, "tokens") == 150
    assert verdicts.reached(run, 7.5, "wall") == 1.0  # at the first score or before
    assert verdicts.reached(run, 6.0, "tokens") == math.inf
    assert verdicts.best_of(RESULTS, "hf-roberta") == "hf-roberta-0.001"
    assert verdicts.best_of(RESULTS, "hf-roberta-bf16") is None
    assert verdicts.shares([run], RESULTS["hf-roberta-0.001"]) == {
        "tokens": 0.5,
        "wall": 0.125,
        "processor": 0.125,
    }
    assert verdicts.left_at([run], 7.1) == 100


def test_the_table_has_winners_and_losers_and_a_picture_is_drawn(tmp_path):
    table = report.write(tmp_path, RESULTS, FACTS)
    lines = {
        line.split(" | ")[0].removeprefix("| "): line for line in reversed(table.splitlines()) if "|" in line
    }
    assert " -0.600 ± 0.346 | won | 0k | 100 | 2 | 4 | 3 |" in lines["muon"]
    assert " nil " in lines["sine"] and " lost " in lines["init05"]
    assert lines["base"].startswith("| base |  | 2 | 7.100 ± 0.141 | 10.00% |")
    assert "For hf-roberta-0.001's last loss, 7.500, as shares" in table
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "table.json").read_text())["rungs"]) == len(RESULTS)


def test_steps_that_were_not_timed_count_as_much_as_the_next_that_was(tmp_path):
    clock = Clock(tmp_path)
    (tmp_path / "steps.jsonl").write_text("[2, 1.0, 2.0]\n[3, 1.0, 2.0]\n[3, 2.0, 4.0]\n[5, 3.0, 6.0]\n")
    assert clock.totals([1, 2, 3, 4, 6]) == [(1.0, 2.0), (2.0, 4.0), (4.0, 8.0), (7.0, 14.0), (13.0, 26.0)]
    clock.note(6)
    clock.leave_out(1)
    for step in (6, 7, 8):
        clock.note(step)
    assert [json.loads(line)[0] for line in (tmp_path / "steps.jsonl").read_text().splitlines()] == [
        2,
        3,
        3,
        5,
        8,
    ]


def test_finished_runs_are_read_back_and_seeds_of_the_first_rung_come_first(
    text, tmp_path, monkeypatch, capsys
):
    made = []

    def finish(arguments, **_):
        folder = tmp_path / "tiny" / "/".join(arguments[-1].split("/")[-2:])
        run = Run.read(folder)
        made.append((run.rung, run.seed))
        if run.rung != "sine":
            (folder / "result.json").write_text(json.dumps(result(run.rung, run.seed, [8, 7])))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(command.subprocess, "run", finish)
    arguments = [f"--text=tiny={source(text)}", f"--out={tmp_path}", "--small"]
    assert command.main([*arguments, "--rungs=base,muon"]) == 0
    assert made == [("base", 0), ("base", 1), ("muon", 0)]
    assert command.main([*arguments, "--rungs=base,muon,sine"]) == 1
    assert made[3:] == [("sine", 0)]
    assert "sine, seed 0: failed" in capsys.readouterr().err
    monkeypatch.setitem(command.RUNGS, "muon", Rung("muon", "", {"masking.rate": 0.2}))
    with pytest.raises(SystemExit, match="holds a run with other fields; remove it"):
        command.main([*arguments, "--rungs=muon"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--set=seed", "--set='seed' should be FIELD=VALUE, with a value of JSON"),
        (
            "--set=dtype=float32",
            "should be FIELD=VALUE, with a value of JSON; a text has quotes there: --set='dtype=\"float32\"'",
        ),
        ("--rungs=muon,mouon", "'mouon' not among base, "),
        ("--text=nowhere", "'nowhere' should be NAME=PATH"),
    ],
)
def test_a_wrong_option_is_one_line(tmp_path, argument, message, capsys):
    given = [f"--out={tmp_path}", argument, *([] if "text" in argument else [f"--text=a={tmp_path}"])]
    with pytest.raises(SystemExit) as refused:
        command.parse(given)
    assert refused.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_held_out_rows_are_the_same_in_every_call(text, tmp_path):
    tokens, labels = text.held_out()
    again = prepare(
        "tiny", source(text), text.folder.parent / "again",
        vocab_size=300, seq_len=32, rows=16, megabytes=1,
    )  # fmt: skip
    np.testing.assert_array_equal(again.held_out(), (tokens, labels))
    with pytest.raises(SystemExit, match=r"was made with .'rows': 16.; set"):
        prepare(
            "tiny",
            text.folder.parent / "corpus.txt",
            text.folder,
            vocab_size=300,
            seq_len=32,
            rows=8,
            megabytes=1,
        )
    with pytest.raises(SystemExit, match=r"no document of \d+ is held out"):
        prepare("tiny", text.train, tmp_path, vocab_size=300, seq_len=32, rows=8, megabytes=1)
