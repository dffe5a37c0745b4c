"""The roll call: all come and go on, or all are told who has not come."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from base.errors import UserError
from pretrain.runtime.roll_call import call_the_roll

PATIENCE = 60.0


@pytest.fixture
def address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def outcome(address, count, rank, seconds):
    try:
        call_the_roll(address, count, rank, seconds)
    except UserError as error:
        return str(error)
    return "all are there"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_come(count, address):
    with ThreadPoolExecutor(count) as pool:
        # The last number first: a process may be there before the one that listens.
        calls = [pool.submit(outcome, address, count, rank, PATIENCE) for rank in reversed(range(count))]
    assert [call.result() for call in calls] == ["all are there"] * count


def test_those_who_came_are_told_who_did_not(address):
    with ThreadPoolExecutor(2) as pool:
        first, other = (pool.submit(outcome, address, 4, rank, 3.0) for rank in (0, 2))
    missing = "processes 1, 3 have not come within 3 s, of 4 processes of the run"
    assert first.result() == f"{missing}: see why in its output, or raise UNMASK_INITIALIZATION_SECONDS"
    assert other.result() == missing


def test_a_stranger_who_connects_is_not_counted(address):
    host, port = address.split(":")

    def strange():
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"unmask 7\n", b"\xff\xfe\n"):
            while True:
                try:
                    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
                        connection.sendall(words)
                    break
                except ConnectionRefusedError:
                    continue

    stranger = threading.Thread(target=strange)
    stranger.start()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(outcome, address, 2, 0, PATIENCE)
        stranger.join()
        assert outcome(address, 2, 1, PATIENCE) == "all are there"
    assert first.result() == "all are there"


def test_process_0_does_not_answer(address):
    assert outcome(address, 2, 1, 1.0) == (
        f"process 1 did not reach process 0 at JAX_COORDINATOR_ADDRESS={address} within 1 s; "
        "is it running, and is the address right?"
    )


def test_something_else_listens_there(address):
    host, port = address.split(":")
    with socket.create_server((host, int(port))) as server, ThreadPoolExecutor(1) as pool:
        call = pool.submit(outcome, address, 2, 1, PATIENCE)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"220 mail.example.org\r\n")
            assert (
                call.result()
                == f"what listens at JAX_COORDINATOR_ADDRESS={address} is not process 0 of this run"
            )


def test_the_port_is_taken(address):
    _, port = address.split(":")
    with socket.create_server(("", int(port)), family=socket.AF_INET6, dualstack_ipv6=True):
        assert outcome(address, 2, 0, 1.0) == (
            f"process 0 cannot listen at JAX_COORDINATOR_ADDRESS={address}: Address already in use; choose a free port"
        )


@pytest.mark.parametrize("wrong", ["localhost", "localhost:", "localhost:http", ":1234"])
def test_an_address_that_is_none(wrong):
    assert outcome(wrong, 2, 0, 1.0) == f"JAX_COORDINATOR_ADDRESS={wrong!r} should be HOST:PORT of process 0"
