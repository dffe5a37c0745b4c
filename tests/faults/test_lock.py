"""A workdir belongs to one run: two that are started in one folder, and a folder that goes away."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath

from base import lock
from base.errors import UserError
from base.lock import Lock, held
from base.schema import build
from base.storage import create
from finetune.config import FinetuneConfig
from finetune.train import train as finetune
from pretrain.reports.recorder import Recorder
from pretrain.runtime.checkpointer import newest_step
from pretrain.train import train
from tests.tiny import on_one_device, tiny_config, write_corpus

HOLD = (
    "import sys, time; from etils import epath; from base.lock import Lock\n"
    "Lock(epath.Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "LOOK", 0.02)
    with on_one_device("pretrain.job"):
        yield


@pytest.fixture
def holder(tmp_path):
    """Another process of this machine that holds the lock of tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def content(folder: Path) -> dict:
    return json.loads((folder / "lock.json").read_text())


def elsewhere(folder: Path, **changes: object) -> None:
    """Write the lock of a process on another machine."""
    values = {
        "id": "other",
        "host": "other-host",
        "pid": 7,
        "started": "then",
        "time": time.time(),
        **changes,
    }
    (folder / "lock.json").write_text(json.dumps(values))


class Clock:
    """A clock in place of the lock's, which passes while the lock sleeps."""

    def __init__(self, monkeypatch):
        self.now = self._begin = 1e9
        self._beat, self._renew, self._next = 0.0, lambda: None, float("inf")
        monkeypatch.setattr(lock, "LOOK", 1.0)
        monkeypatch.setattr(lock, "time", self)

    def every(self, seconds, renew):
        """Have another machine renew its lock, now and after each of these seconds."""
        self._beat, self._renew, self._next = seconds, renew, self.now + seconds
        renew()

    @property
    def waited(self) -> float:
        return self.now - self._begin

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now + 5e6

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self._next:
            self._next += self._beat
            self._renew()


def test_a_run_beside_another_is_refused_until_that_has_ended(tmp_path, holder, caplog):
    workdir = epath.Path(tmp_path)
    config = tiny_config(write_corpus(tmp_path / "text.txt"), steps=3)
    with pytest.raises(
        UserError, match=rf"^process {holder.pid} on .* trains in --workdir={tmp_path}: stop it, or set"
    ):
        train(config, workdir)
    with pytest.raises(
        UserError, match=rf"^process {holder.pid} on .* trains in --workdir={tmp_path}: stop it"
    ):
        finetune(build(FinetuneConfig, {"init_from": "x", "compilation_cache": ""}), workdir)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock.json", "text.txt"]
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError, match="trains in --workdir"):  # stopped is not ended
        train(config, workdir)
    holder.kill()
    holder.wait()
    assert train(config, workdir).step == 3
    assert f"taking over --workdir={workdir} from process {holder.pid}" in caplog.text
    assert not (tmp_path / "lock.json").exists()


def test_a_lock_of_another_machine_that_nobody_renews_is_taken_over(tmp_path, monkeypatch, caplog):
    clock = Clock(monkeypatch)
    elsewhere(tmp_path, time=clock.now)
    with held(epath.Path(tmp_path)):
        assert content(tmp_path)["pid"] == os.getpid()
    assert lock.STALE <= clock.waited < lock.STALE + 2
    assert f"taking over --workdir={tmp_path} from process 7 on other-host" in caplog.text


@pytest.mark.parametrize("skew", [-600.0, -60.0, 0.0, 600.0])
def test_clocks_that_differ_do_not_take_a_lock_away_from_a_run(tmp_path, monkeypatch, skew):
    clock = Clock(monkeypatch)
    clock.every(lock.BEAT, lambda: elsewhere(tmp_path, time=clock.now + skew))
    with pytest.raises(UserError, match=r"process 7 on other-host trains in"):
        Lock(epath.Path(tmp_path))
    assert clock.waited <= lock.BEAT + 1


@pytest.mark.parametrize(("skew", "least"), [(-600.0, 30.0), (600.0, 90.0)])
def test_a_lock_of_a_machine_that_is_gone_costs_a_bounded_wait(tmp_path, monkeypatch, skew, least):
    clock = Clock(monkeypatch)
    elsewhere(tmp_path, time=clock.now - 300 + skew)
    with held(epath.Path(tmp_path)):
        assert content(tmp_path)["pid"] == os.getpid()
    assert least <= clock.waited < least + 2


def test_a_number_of_a_process_that_is_used_again_is_another_process(tmp_path):
    """Containers give the first process of each the number 1."""
    elsewhere(tmp_path, host=lock._this_process()["host"], pid=os.getppid(), started="another boot 1")
    with held(epath.Path(tmp_path)):
        assert content(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}'])
def test_a_damaged_lock_is_none(tmp_path, text):
    (tmp_path / "lock.json").write_text(text)
    with held(epath.Path(tmp_path)):
        assert content(tmp_path)["pid"] == os.getpid()


def test_a_folder_that_this_process_holds_is_not_its_own_earlier_run(tmp_path):
    with held(epath.Path(tmp_path)) as first:
        with pytest.raises(
            UserError, match=rf"process {os.getpid()} on .* prepares in --work={tmp_path}: stop"
        ):
            Lock(epath.Path(tmp_path), "--work", "prepares")
        first.check()
        kept = content(tmp_path)
    (tmp_path / "lock.json").write_text(
        json.dumps(kept)
    )  # of a run of this process that could not release it
    with held(epath.Path(tmp_path)):
        assert content(tmp_path)["id"] != kept["id"]


def test_a_lock_is_renewed_and_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    with held(epath.Path(tmp_path)) as mine:
        before = content(tmp_path)["time"]
        until = time.monotonic() + 20
        while content(tmp_path)["time"] == before and time.monotonic() < until:
            time.sleep(0.01)
        assert content(tmp_path)["time"] > before
        mine.check()
    assert not (tmp_path / "lock.json").exists()


def during_step(monkeypatch, step: int, happen) -> None:
    record = Recorder.step

    def recording(self, number, metrics, *, waited):
        if number == step:
            happen()
        record(self, number, metrics, waited=waited)

    monkeypatch.setattr(Recorder, "step", recording)


def test_a_run_whose_workdir_was_taken_over_saves_nothing_more(tmp_path, monkeypatch):
    workdir = epath.Path(tmp_path / "run")
    config = tiny_config(write_corpus(tmp_path / "text.txt"), steps=4, checkpoint={"every": 2, "keep": 9})
    during_step(monkeypatch, 3, lambda: elsewhere(tmp_path / "run"))
    with pytest.raises(
        UserError, match=r"process 7 on other-host has taken over the workdir .* saves nothing more"
    ):
        train(config, workdir)
    assert newest_step(workdir) == 2 and content(tmp_path / "run")["id"] == "other"


def test_a_workdir_that_goes_away_ends_the_run_at_the_next_save(tmp_path, monkeypatch):
    workdir = epath.Path(tmp_path / "run")
    config = tiny_config(write_corpus(tmp_path / "text.txt"), steps=4, checkpoint={"every": 2, "keep": 9})

    def move():
        while newest_step(workdir) != 2:  # the save of step 2 ends beside the steps
            time.sleep(0.01)
        shutil.move(tmp_path / "run", tmp_path / "moved")

    during_step(monkeypatch, 3, move)
    with pytest.raises(UserError, match=r"the workdir .* is gone, or its lock.json: the run ends"):
        train(config, workdir)
    assert newest_step(workdir) == 0 and not (tmp_path / "run" / "finished.json").exists()
    assert newest_step(epath.Path(tmp_path / "moved")) == 2


def test_one_of_several_that_begin_at_once_has_the_lock(tmp_path):
    file = epath.Path(tmp_path / "lock.json")
    assert create(file, "mine\n")
    assert not create(file, "theirs\n")
    assert file.read_text() == "mine\n"
    elsewhere(tmp_path)
    missing = Lock.__new__(Lock)
    missing._workdir, missing._file, missing._own = epath.Path(tmp_path), file, {"id": "mine", "host": "here"}
    missing._flag, missing._does = "--workdir", "trains"
    file.unlink()
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(UserError, match="process 7 on other-host trains in"),
    ):
        patch.setattr(lock, "create", lambda path, text: elsewhere(tmp_path) is not None)  # another was first
        missing._take()
