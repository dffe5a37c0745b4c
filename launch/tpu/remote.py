"""The program that runs on each machine of a pod: it installs the code, starts the job and reports the job's state.

    python3 remote.py setup|start|status|logs|stop

It needs only Python 3.8, and works in its own folder. The launcher copies these files into that folder:

    code.tar.gz   the project                          setup.json   {"python", "extras"}
    job.json      {"launch", "run", "command", ...}    env.json     values of environment variables; read once, removed

Each command prints one line, `UNMASK {...}`. The launcher reads this line, because exit statuses get lost on the way.
A job starts once for each "launch", because gcloud sends a command again when a connection breaks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
CODE, VENV, LOG = HERE / "code", HERE / "venv", HERE / "log.txt"
STATE = HERE / "state.json"
"""State of the job. Each writer replaces the whole file."""
STOP = HERE / "stop"
"""This file exists after a person has told the job to stop."""
MADE = "made.json"
"""File in a complete environment: the settings and digests that it was made from."""
LIBTPU_LOCK = Path("/tmp/libtpu_lockfile")
SECONDS_TO_START = 60.0


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands."""
    os.umask(0o077)
    options = dict(argument.lstrip("-").split("=", 1) for argument in arguments[1:])
    if arguments[0] == "supervise":
        return supervise()
    if arguments[0] == "logs":
        return show_log(options)
    commands = {"setup": setup, "start": start, "status": status, "stop": stop}
    try:
        answer = commands[arguments[0]](options)
    except (OSError, subprocess.SubprocessError, ValueError, tarfile.TarError) as error:
        answer = {"error": " ".join(str(error).split())[:500] or type(error).__name__}
    say({"worker": worker(), **answer})
    return 0


def say(answer: dict[str, Any]) -> None:
    """Print an answer as one short line, with one write."""
    sys.stdout.write("UNMASK " + json.dumps(answer) + "\n")
    sys.stdout.flush()


def worker() -> int:
    """The number of this machine in its slice. The host name of a TPU VM ends in it: t1v-n-...-w-3."""
    named = os.environ.get("TPU_WORKER_ID") or (re.findall(r"-w-(\d+)", socket.gethostname()) or ["0"])[-1]
    return int(named)


# ---- setup ----------------------------------------------------------------------------------------------------------


def setup(options: dict[str, str]) -> dict[str, Any]:
    """Unpack the code and install it with its pinned dependencies, unless this is done already."""
    with locked():
        return _setup()


def _setup() -> dict[str, Any]:
    if running(state()):
        return {"error": "a job is running here; stop it first"}
    archive = hashlib.sha256((HERE / "code.tar.gz").read_bytes()).hexdigest()
    given = json.loads((HERE / "setup.json").read_text())
    settings = {"python": given["python"], "extras": given["extras"]}
    done, stamp = {"archive": archive, **settings}, HERE / "installed.json"
    if read(stamp) != done or not made():
        remove(stamp)
        fresh = HERE / "code.new"
        shutil.rmtree(fresh, ignore_errors=True)
        with tarfile.open(HERE / "code.tar.gz") as tar:
            tar.extractall(fresh)
        shutil.rmtree(CODE, ignore_errors=True)
        fresh.rename(CODE)
        install(settings)
        write(stamp, done)
    return {"archive": archive}


def install(settings: dict[str, Any]) -> None:
    """Make the environment and install the code into it, unless a complete environment with equal settings exists.

    An environment with other settings is removed first, and an incomplete one too. Otherwise packages of another Python
    or of another extra would stay in it.

    Args:
      settings: "python", which uv downloads if the machine does not have it, and "extras" of the project.
    """
    wanted = {**settings, **{name: digest(CODE / name) for name in ("pyproject.toml", "constraints.txt")}}
    if made() == wanted:
        return
    if VENV.exists():
        shutil.rmtree(VENV)
    python, extras = settings["python"], settings["extras"]
    if shutil.which(python):
        call([python, "-m", "venv", str(VENV)])
    else:
        call([sys.executable, "-m", "pip", "install", "--quiet", "--user", "uv"])
        call([sys.executable, "-m", "uv", "venv", "--quiet", "--seed", "--python", python, str(VENV)])
    project = ".[" + ",".join(extras) + "]" if extras else "."
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    call([*pip, "--quiet", "-c", "constraints.txt", "-e", project], CODE)
    write(VENV / MADE, wanted)


def made() -> dict[str, Any]:
    """The settings and digests that the environment was made from; {} if it is not complete."""
    return read(VENV / MADE) if (VENV / "bin" / "python").exists() else {}


def digest(file: Path) -> str:
    """SHA-256 of a file; "" if the file does not exist."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def call(argv: list[str], folder: Path = HERE) -> None:
    """Run a program. If it fails, its last lines are the error's message."""
    done = subprocess.run(argv, cwd=str(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        tail = " ".join(done.stdout.split())[-300:]
        raise ValueError(" ".join(Path(argv[0]).name.split() + argv[1:4]) + " ... failed: " + tail)


# ---- the job --------------------------------------------------------------------------------------------------------


def start(options: dict[str, str]) -> dict[str, Any]:
    """Start the job of job.json in its own session, unless it was started already."""
    job = json.loads((HERE / "job.json").read_text())
    with locked():
        now = state()
        if now.get("launch") == job["launch"]:
            remove(HERE / "env.json")
            return {"started": False, **brief(now)}
        if running(now):
            remove(HERE / "env.json")
            return {"error": "another job is running here; stop it first"}
        clean(now)
        remove(STOP)
        names = {name: job[name] for name in ("launch", "run", "digest")}
        write(STATE, {**names, "starter": identity(os.getpid())})
        # Read and removed under the lock: if gcloud sends the command twice, the second start cannot remove the values.
        given = json.dumps({"job": job, "values": read(HERE / "env.json")})
        remove(HERE / "env.json")
        with LOG.open("ab") as log:
            supervisor = subprocess.Popen(
                [sys.executable, str(HERE / "remote.py"), "supervise"],
                cwd=str(HERE),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert supervisor.stdin is not None
        with supervisor.stdin as pipe:
            pipe.write(given.encode())
        until = time.monotonic() + SECONDS_TO_START
        while not ("supervisor" in state() or "exit" in state()) and time.monotonic() < until:
            time.sleep(0.05)
    return {"started": True, **brief(state())}


def clean(before: dict[str, Any]) -> None:
    """Kill processes that an earlier job has left, and remove libtpu's lock file if no living process holds it."""
    child = before.get("child")
    if child and identity(child[0]) in (None, child):  # not another process with the same number
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child[0], signal.SIGKILL)
    with contextlib.suppress(OSError), LIBTPU_LOCK.open("r+") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        LIBTPU_LOCK.unlink()


def supervise() -> int:
    """Read the job and the values of its variables from standard input, run the job to its end, and write its state.
    This process is detached: it has no terminal."""
    now = {**state(), "supervisor": identity(os.getpid()), "began": time.time()}
    write(STATE, now)
    try:
        given = json.loads(sys.stdin.buffer.read())
        job = given["job"]
        environment = {**os.environ, **own_environment(job), **given["values"], **secrets(job)}
    except (OSError, ValueError) as error:
        print("error: " + str(error), flush=True)
        write(STATE, {**now, "exit": 2, "ended": time.time()})
        return 0
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    try:
        program = shutil.which(job["command"][0], path=environment["PATH"]) or job["command"][0]
        child = subprocess.Popen(
            [program, *job["command"][1:]],
            cwd=str(CODE),
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        print("error: " + str(error), flush=True)
        write(STATE, {**now, "exit": 127, "ended": time.time()})
        return 0
    now["child"] = identity(child.pid)
    write(STATE, now)
    code = wait(child, signals)
    write(STATE, {**now, "exit": 128 - code if code < 0 else code, "ended": time.time()})
    return 0


def wait(child: subprocess.Popen[bytes], signals: list[int]) -> int:
    """Wait for the job's exit status. Signals are passed on to the job, so that it saves and ends."""
    while True:
        while signals:
            child.send_signal(signals.pop())
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=0.5)


def own_environment(job: dict[str, Any]) -> dict[str, str]:
    """Environment variables that select the installed `python`, and join the processes of the pod to one run."""
    path = str(VENV / "bin") + os.pathsep + os.environ.get("PATH", "")
    together = {"UNMASK_DISTRIBUTED": "1"} if job["distributed"] else {}
    return {"PATH": path, "VIRTUAL_ENV": str(VENV), "PYTHONUNBUFFERED": "1", **together}


def secrets(job: dict[str, Any]) -> dict[str, str]:
    """Read the job's secrets with the rights of this machine. The values are only in the job's environment."""
    values = {}
    for name, secret in job["secrets"].items():
        secret, _, version = secret.partition(":")
        argv = ["gcloud", "secrets", "versions", "access", version or "latest"]
        argv += ["--secret=" + secret, "--project=" + job["project"]]
        read = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if read.returncode:
            reason = " ".join(read.stderr.split())[:300]
            raise ValueError(f"secret {secret!r}, for {name}, cannot be read on this machine: {reason}")
        values[name] = read.stdout.rstrip("\r\n")  # a secret made with echo ends in a newline
    return values


def stop(options: dict[str, str]) -> dict[str, Any]:
    """Tell the job to save and stop, and wait for its end. After the grace time, kill it."""
    now, seconds = state(), float(options.get("grace", "300"))
    if not running(now):
        return {"stopped": False, **brief(now)}
    if options.get("asked") != "0":
        STOP.touch()
    os.kill((now.get("child") or now.get("supervisor") or now["starter"])[0], signal.SIGTERM)
    until = time.monotonic() + seconds
    while running(state()) and time.monotonic() < until:
        time.sleep(0.2)
    killed = running(state())
    if killed:
        clean(state())
        while running(state()):
            time.sleep(0.1)
    return {"stopped": True, "killed": killed, **brief(state())}


# ---- the state of the job -------------------------------------------------------------------------------------------


def status(options: dict[str, str]) -> dict[str, Any]:
    """The state of the job, and the digest of the installed code."""
    archive = read(HERE / "installed.json").get("archive", "")
    return {"archive": archive, "line": last_line(), **brief(state())}


def brief(now: dict[str, Any]) -> dict[str, Any]:
    """The state in the form for the launcher: none, running, exited (with a status), or lost (without a status)."""
    kind = "none"
    if "launch" in now:
        kind = "exited" if "exit" in now else "running" if running(now) else "lost"
    fields: dict[str, Any] = {
        name: now[name] for name in ("launch", "run", "digest", "exit", "began", "ended") if name in now
    }
    return {"state": kind, "asked": STOP.exists(), **fields}


def state() -> dict[str, Any]:
    """The written state of the job; {} before the first job."""
    return read(STATE)


def running(now: dict[str, Any]) -> bool:
    """Whether the job is alive, or its supervisor, or the process that starts the supervisor."""
    return "exit" not in now and any(alive(now.get(name)) for name in ("child", "supervisor", "starter"))


def alive(process: Sequence[Any] | None) -> bool:
    """Whether this process is alive. Its start time is compared too, because the system reuses process numbers."""
    return process is not None and identity(process[0]) == list(process)


def identity(pid: int) -> list[Any] | None:
    """A process as [number, start time]; None if it does not exist or is a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else [pid, after_name[19]]


def read(file: Path) -> dict[str, Any]:
    """The JSON content of a file; {} if the file does not exist."""
    try:
        return dict(json.loads(file.read_text()))
    except FileNotFoundError:
        return {}


def write(file: Path, content: dict[str, Any]) -> None:
    """Write JSON to a file. The file is replaced at once, so that no reader sees half of it."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content))
    temporary.replace(file)


def remove(file: Path) -> None:
    """Remove a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        file.unlink()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Hold a lock. If gcloud sends a command twice, the second one waits for the first."""
    with (HERE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def last_line() -> str:
    """The last line of the log, at most 200 characters."""
    if not LOG.exists():
        return ""
    with LOG.open("rb") as log:
        log.seek(max(0, LOG.stat().st_size - 4000))
        lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else ""


def show_log(options: dict[str, str]) -> int:
    """Print the start position, and then the log from there: from byte `offset`, or its last `lines`. With follow=1,
    continue until the job has ended."""
    out, offset = sys.stdout.buffer, int(options.get("offset", "0"))
    if "lines" in options:
        offset = start_of_last(int(options["lines"]))
    say({"worker": worker(), "offset": offset})
    while True:
        ended = not running(state())  # checked before the read: the read then includes the last lines
        with log_at(offset) as log:
            for chunk in iter(lambda: log.read(65536), b""):
                out.write(chunk)
                offset += len(chunk)
        out.flush()
        if ended or options.get("follow") != "1":
            return 0
        time.sleep(0.3)


@contextlib.contextmanager
def log_at(offset: int) -> Iterator[IO[bytes]]:
    """Open the log at a byte position."""
    LOG.touch()
    with LOG.open("rb") as log:
        log.seek(offset)
        yield log


def start_of_last(count: int) -> int:
    """The byte position of the last `count` lines of the log."""
    content = LOG.read_bytes() if LOG.exists() else b""
    return len(content) - len(b"".join(content.splitlines(keepends=True)[-count:])) if count else len(content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
