"""The roll call of a run's processes before they join, so that a timeout can say who is missing.

jax ends a process that has waited too long, but does not name the processes that are missing. So process 0 first
listens on the coordinator's port itself, until each other process has sent its number.
"""

import os
import socket
import time

from base.errors import UserError


class MissingError(UserError):
    """Processes of the run have not come in time; they may come if the command is run again."""


GREETING = "unmask"
RETRY_SECONDS = 0.2


def call_the_roll(address: str, count: int, rank: int, seconds: float) -> None:
    """Wait until all `count` processes of a run are there; the one of number 0 listens at `address`.

    Args:
      address: HOST:PORT of process 0.
      count: processes of the run.
      rank: this one's number.
      seconds: how long to wait.

    Raises:
      MissingError: processes are missing, and the message names them, or process 0 does not answer.
      UserError: the address is wrong, or the port is taken.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address!r} should be HOST:PORT of process 0")
    deadline = time.monotonic() + seconds
    if rank == 0:
        _listen(address, int(port), count, deadline, seconds)
    else:
        _report(address, (host.strip("[]"), int(port)), rank, deadline, seconds)


def _listen(address: str, port: int, count: int, deadline: float, seconds: float) -> None:
    """Collect the others' numbers, then tell all of them how it went."""
    try:
        server = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=count)
    except OSError:
        try:
            server = socket.create_server(("", port), backlog=count)  # no IPv6 here
        except OSError as error:
            raise UserError(
                f"process 0 cannot listen at JAX_COORDINATOR_ADDRESS={address}: {os.strerror(error.errno or 0)}; "
                "choose a free port"
            ) from error
    present: dict[int, socket.socket] = {}
    with server:
        while len(present) < count - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection, _ = server.accept()
                number = _number_of(connection, count)
            except TimeoutError:
                continue
            if number is None:
                connection.close()
            else:
                present[number] = connection
    missing = [str(number) for number in range(1, count) if number not in present]
    verdict = ""
    if missing:
        who = f"process {missing[0]} has" if len(missing) == 1 else f"processes {', '.join(missing)} have"
        verdict = f"{who} not come within {seconds:g} s, of {count} processes of the run"
    for connection in present.values():
        with connection:
            connection.sendall(f"{GREETING} {verdict}\n".encode())
    if verdict:
        raise MissingError(f"{verdict}: see why in its output, or raise UNMASK_INITIALIZATION_SECONDS")


def _number_of(connection: socket.socket, count: int) -> int | None:
    """The number that a process sends; None if the client is not a process of the run."""
    connection.settimeout(5)
    try:
        words = connection.makefile().readline().split()
    except (OSError, UnicodeDecodeError):
        return None
    if len(words) != 2 or words[0] != GREETING or not words[1].isdecimal():
        return None
    return int(words[1]) if 0 < int(words[1]) < count else None


def _report(address: str, place: tuple[str, int], rank: int, deadline: float, seconds: float) -> None:
    """Tell process 0 that this one is there, and wait for its word."""
    answer = ""
    while not answer and time.monotonic() < deadline:
        try:
            with socket.create_connection(place, timeout=max(deadline - time.monotonic(), 1)) as connection:
                connection.sendall(f"{GREETING} {rank}\n".encode())
                # Process 0 gives up at its own deadline, which is a little later if it was started later.
                connection.settimeout(max(deadline - time.monotonic(), 0) + 10)
                answer = connection.makefile().readline()
        except (OSError, UnicodeDecodeError):
            pass
        if not answer:
            time.sleep(RETRY_SECONDS)
    if not answer:
        raise MissingError(
            f"process {rank} did not reach process 0 at JAX_COORDINATOR_ADDRESS={address} within {seconds:g} s; "
            "is it running, and is the address right?"
        )
    greeting, _, verdict = answer.strip().partition(" ")
    if greeting != GREETING:
        raise UserError(f"what listens at JAX_COORDINATOR_ADDRESS={address} is not process 0 of this run")
    if verdict:
        raise MissingError(verdict)
