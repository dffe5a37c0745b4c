"""Who belongs to a run is said by the environment; what is said wrongly is one line. Runs: tests/faults."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from base.errors import UserError
from pretrain.runtime import cluster, processes

ALL = {
    "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
    "UNMASK_INITIALIZATION_SECONDS": "1",
}


JOINED = """
import os, urllib.request
from pretrain.runtime import cluster, processes
def main(argv):
    numbers = processes.gather(processes.number())
    print(numbers, urllib.request.getproxies()["https"], os.environ["no_proxy"])
processes.run(main)
"""
"""A program that joins, and prints whom it has met and which proxy a download would take."""


def environment(monkeypatch, **changes):
    for name, value in (ALL | changes).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"UNMASK_HEARTBEAT_SECONDS": "soon"},
            "UNMASK_HEARTBEAT_SECONDS='soon' should be a whole number of seconds",
        ),
        (
            {"UNMASK_INITIALIZATION_SECONDS": "0"},
            "UNMASK_INITIALIZATION_SECONDS='0' should be a whole number",
        ),
        (
            {"JAX_PROCESS_ID": "2"},
            "JAX_NUM_PROCESSES='2' and JAX_PROCESS_ID='2' should be a number of processes and one counted from 0",
        ),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two' and JAX_PROCESS_ID='1' should be"),
        ({"JAX_COORDINATOR_ADDRESS": "here"}, "JAX_COORDINATOR_ADDRESS='here' should be HOST:PORT"),
        ({}, "process 1 did not reach process 0 at JAX_COORDINATOR_ADDRESS=127.0.0.1:1 within 1 s"),
    ],
)
def test_an_environment_that_cannot_be_joined_is_refused(changes, message, monkeypatch):
    environment(monkeypatch, **changes)
    with pytest.raises(UserError) as error:
        processes.join()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("said", "wanted"), [("1", True), ("0", False), ("", True)])
def test_the_three_variables_together_ask_for_joining(said, wanted, monkeypatch):
    environment(monkeypatch, UNMASK_DISTRIBUTED=said)
    assert cluster.wanted() is wanted
    monkeypatch.delenv("JAX_PROCESS_ID")
    assert cluster.wanted() is (said == "1")


def test_what_is_neither_yes_nor_no_is_refused(monkeypatch):
    environment(monkeypatch, UNMASK_DISTRIBUTED="yes")
    with pytest.raises(UserError, match="UNMASK_DISTRIBUTED='yes' should be 1 or 0"):
        cluster.wanted()


def test_a_command_that_cannot_join_says_so_in_one_line_before_it_is_even_read(monkeypatch, capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment(
        monkeypatch,
        JAX_PROCESS_ID="0",
        JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
        UNMASK_DISTRIBUTED="1",
    )
    with pytest.raises(SystemExit) as end:
        processes.run(lambda argv: pytest.fail("the command was run"))
    assert end.value.code == 75
    assert capsys.readouterr().err == (
        "error: process 1 has not come within 1 s, of 2 processes of the run: see why in its output, "
        "or raise UNMASK_INITIALIZATION_SECONDS\n"
    )


def test_those_who_are_missing_are_named_where_jax_finds_the_cluster(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "localhost", "NTASKS": "3", "PROCID": "0", "LOCALID": "0"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in cluster.CLUSTER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_COORDINATOR_PORT", port)
    monkeypatch.setenv("UNMASK_INITIALIZATION_SECONDS", "1")
    with pytest.raises(UserError, match="processes 1, 2 have not come within 1 s, of 3 processes"):
        processes.join()


class SlowStore:
    """Stands in for jax's client; the other process sets its key after three waits."""

    waits = 0

    def blocking_key_value_get(self, key, milliseconds):
        self.waits += 1
        if self.waits <= 3:
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: GetKeyValue() timed out")
        return json.dumps("tokenizer")


def test_a_process_that_waits_for_another_says_so_now_and_then(monkeypatch, caplog):
    monkeypatch.setattr(
        processes, "_state", SimpleNamespace(client=SlowStore(), process_id=1, num_processes=2)
    )
    monkeypatch.setattr(processes, "SAY_SECONDS", 0.0)
    assert processes.from_first(lambda: None, "making the tokenizer") == "tokenizer"
    assert caplog.messages == ["waiting for process 0: 0 s"] * 3
    assert processes._activity.record().name == "what comes after making the tokenizer"


def test_without_a_cluster_the_message_says_what_to_set(monkeypatch):
    for name in cluster.CLUSTER:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        UserError, match=r"could not be joined: .*python -m launch\.local does, or leave config"
    ):
        processes.join()


def test_one_process_keeps_what_it_has(monkeypatch):
    values = object()
    assert processes.from_first(lambda: values) is values
    assert processes.first_then_all(lambda: values, "values") is values
    assert processes.gather(values) == [values]
    processes.check_same({"x": values})
    assert (processes.count(), processes.number(), processes.is_first()) == (1, 0, True)


@pytest.mark.parametrize(
    ("function", "status", "shown"),
    [
        (lambda argv: None, 0, ""),
        (lambda argv: 143, 143, ""),
        (lambda argv: (_ for _ in ()).throw(UserError("no such file")), 2, "error: no such file\n"),
    ],
)
def test_one_process_ends_as_its_command_does(function, status, shown, monkeypatch, capsys):
    monkeypatch.delenv("UNMASK_DISTRIBUTED", raising=False)
    with pytest.raises(SystemExit) as end:
        processes.run(function)
    assert end.value.code == status
    assert capsys.readouterr().err == shown


def test_an_exception_of_the_only_process_is_pythons_to_show(monkeypatch):
    monkeypatch.delenv("UNMASK_DISTRIBUTED", raising=False)
    with pytest.raises(ZeroDivisionError):
        processes.run(lambda argv: 1 // 0)


def test_processes_reach_each_other_past_a_proxy_which_downloads_still_take():
    dead = "http://127.0.0.1:9"  # nothing listens there
    names = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
    proxies = {each: dead for name in names for each in (name, name.upper())}
    environment = {**os.environ, **proxies, "no_proxy": "example.org", "UNMASK_INITIALIZATION_SECONDS": "60"}
    launch = [sys.executable, "-m", "launch.local", "-n", "2", "--", sys.executable, "-c", JOINED]
    done = subprocess.run(
        launch, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, timeout=120
    )
    assert sorted(done.stdout.splitlines()) == [
        f"[0] [0, 1] {dead} example.org",
        f"[1] [] {dead} example.org",
    ], done.stderr
    assert "proxy" not in done.stderr
    assert done.returncode == 0, "both end as processes that succeed"
