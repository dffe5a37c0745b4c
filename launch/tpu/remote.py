"""What runs on each machine of a pod: installs the code, starts the job, says how it stands. Copied there, run there.

    python3 remote.py setup|start|status|logs|stop

It needs nothing but a Python 3.8, and works in the folder it lies in, into which the launcher copies

    code.tar.gz   the project                          setup.json   {"python", "extras"}
    job.json      {"launch", "run", "command", ...}    env.json     values of environment variables; read once, removed

Each command prints one line, `UNMASK {...}`, which the launcher waits for: exit statuses get lost on the way. A job is
started once for each "launch": gcloud sends a command again when a connection breaks.
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
"""How the job stands: written whole by whoever changes it."""
STOP = HERE / "stop"
"""There when the job was told to stop."""
MADE = "made.json"
"""Written into the environment when it is whole: what it was made of."""
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
    """Print an answer as one short line, in one piece."""
    sys.stdout.write("UNMASK " + json.dumps(answer) + "\n")
    sys.stdout.flush()


def worker() -> int:
    """Which worker of its slice this machine is: TPU VMs are called t1v-n-...-w-3."""
    named = os.environ.get("TPU_WORKER_ID") or (re.findall(r"-w-(\d+)", socket.gethostname()) or ["0"])[-1]
    return int(named)


# ---- setup ----------------------------------------------------------------------------------------------------------


def setup(options: dict[str, str]) -> dict[str, Any]:
    """Unpack the code and install it with its pinned dependencies; does nothing where that is done."""
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
    """Make the environment and install the code into it; does nothing where one was made whole of the same things.

    An environment that was made of anything else, or whose installation broke off, is removed first. Otherwise packages
    of another Python or of another extra would stay in it.

    Args:
      settings: "python", which uv fetches where the machine does not have it, and "extras" of the project.
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
    """What the environment was made of; {} where it is not whole."""
    return read(VENV / MADE) if (VENV / "bin" / "python").exists() else {}


def digest(file: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def call(argv: list[str], folder: Path = HERE) -> None:
    """Run a program; its last lines are the error when it fails."""
    done = subprocess.run(argv, cwd=str(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        tail = " ".join(done.stdout.split())[-300:]
        raise ValueError(" ".join(Path(argv[0]).name.split() + argv[1:4]) + " ... failed: " + tail)


# ---- the job --------------------------------------------------------------------------------------------------------


def start(options: dict[str, str]) -> dict[str, Any]:
    """Start the job of job.json in a session of its own, unless it was started already."""
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
        # Handed over while the lock is held: a start that is sent again finds nothing to take away from the first.
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
    """End what an earlier job has left running, and remove libtpu's lock if no living process holds it."""
    child = before.get("child")
    if child and identity(child[0]) in (None, child):  # not another process of the same number
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child[0], signal.SIGKILL)
    with contextlib.suppress(OSError), LIBTPU_LOCK.open("r+") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        LIBTPU_LOCK.unlink()


def supervise() -> int:
    """Run the job that stands on standard input, with the values of its variables, to its end, and write down what it
    came to. This process is detached: it has no terminal."""
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
    """The job's exit status; signals that arrive meanwhile are passed on, so that it saves and ends."""
    while True:
        while signals:
            child.send_signal(signals.pop())
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=0.5)


def own_environment(job: dict[str, Any]) -> dict[str, str]:
    """The environment that makes `python` the installed one, and the processes of the pod one run."""
    path = str(VENV / "bin") + os.pathsep + os.environ.get("PATH", "")
    together = {"UNMASK_DISTRIBUTED": "1"} if job["distributed"] else {}
    return {"PATH": path, "VIRTUAL_ENV": str(VENV), "PYTHONUNBUFFERED": "1", **together}


def secrets(job: dict[str, Any]) -> dict[str, str]:
    """The secrets of the job, read with the rights of this machine; they live in the job's environment only."""
    found = {}
    for name, secret in job["secrets"].items():
        secret, _, version = secret.partition(":")
        argv = ["gcloud", "secrets", "versions", "access", version or "latest"]
        argv += ["--secret=" + secret, "--project=" + job["project"]]
        read = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if read.returncode:
            reason = " ".join(read.stderr.split())[:300]
            raise ValueError(f"secret {secret!r}, for {name}, cannot be read on this machine: {reason}")
        found[name] = read.stdout.rstrip("\r\n")  # of a secret that was made with echo
    return found


def stop(options: dict[str, str]) -> dict[str, Any]:
    """Tell the job to save and stop, and wait for it; kill it when its time is over."""
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


# ---- how it stands --------------------------------------------------------------------------------------------------


def status(options: dict[str, str]) -> dict[str, Any]:
    """How the job stands, and which code is installed."""
    archive = read(HERE / "installed.json").get("archive", "")
    return {"archive": archive, "line": last_line(), **brief(state())}


def brief(now: dict[str, Any]) -> dict[str, Any]:
    """A state as the launcher reads it: none, running, exited (with its status), or lost without one."""
    kind = "none"
    if "launch" in now:
        kind = "exited" if "exit" in now else "running" if running(now) else "lost"
    told: dict[str, Any] = {
        name: now[name] for name in ("launch", "run", "digest", "exit", "began", "ended") if name in now
    }
    return {"state": kind, "asked": STOP.exists(), **told}


def state() -> dict[str, Any]:
    """What is written down about the job; {} before the first."""
    return read(STATE)


def running(now: dict[str, Any]) -> bool:
    """Whether a job, or what was to start it, is alive."""
    return "exit" not in now and any(alive(now.get(name)) for name in ("child", "supervisor", "starter"))


def alive(process: Sequence[Any] | None) -> bool:
    """Whether this very process lives: numbers are used again, so its start counts too."""
    return process is not None and identity(process[0]) == list(process)


def identity(pid: int) -> list[Any] | None:
    """A process as [its number, when it started]; None when there is none, or only its remains."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else [pid, after_name[19]]


def read(file: Path) -> dict[str, Any]:
    """What is written in a file as JSON; {} where there is none."""
    try:
        return dict(json.loads(file.read_text()))
    except FileNotFoundError:
        return {}


def write(file: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content))
    temporary.replace(file)


def remove(file: Path) -> None:
    """Remove a file that need not be there."""
    with contextlib.suppress(FileNotFoundError):
        file.unlink()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One at a time: a command that gcloud sends again waits for the first."""
    with (HERE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def last_line() -> str:
    """The end of the log, as one line."""
    if not LOG.exists():
        return ""
    with LOG.open("rb") as log:
        log.seek(max(0, LOG.stat().st_size - 4000))
        lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else ""


def show_log(options: dict[str, str]) -> int:
    """Say where in the log it begins, and write it from there: byte `offset`, or its last `lines`; with follow=1 on and
    on until the job has ended."""
    out, offset = sys.stdout.buffer, int(options.get("offset", "0"))
    if "lines" in options:
        offset = start_of_last(int(options["lines"]))
    say({"worker": worker(), "offset": offset})
    while True:
        ended = not running(state())  # before reading: what was written before the end is read then
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
    """The log, open at a byte."""
    LOG.touch()
    with LOG.open("rb") as log:
        log.seek(offset)
        yield log


def start_of_last(count: int) -> int:
    """Where the last `count` lines of the log begin."""
    content = LOG.read_bytes() if LOG.exists() else b""
    return len(content) - len(b"".join(content.splitlines(keepends=True)[-count:])) if count else len(content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
