"""A stand-in for gcloud: keeps a cloud in a folder, and plays its machines as folders of this one.

    STAND_IN=FOLDER stand_in.py compute tpus ...

FOLDER/calls/     a file for each call: its arguments, NUL between them
FOLDER/answers/   scripted answers, in order: {"match": [words], "status", "stdout", "stderr", "signal", "after",
                  "lost"}; each is used once, by the first call that has all its words; "after" answers when the call
                  has been played, and with "lost" nothing of what that printed arrives
FOLDER/cloud.json the settings and the resources
FOLDER/homes/     a home folder for each machine, NODE.WORKER
FOLDER/buckets/   what gs:// paths hold
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(os.environ["STAND_IN"])
KNOWN = {
    "queued-resources create": "node-id node-count node-prefix accelerator-type runtime-version spot reserved "
    "guaranteed valid-until-duration service-account scopes labels network subnetwork internal-ips async quiet "
    "project zone",
    "queued-resources describe": "format project zone",
    "queued-resources delete": "force quiet async project zone",
    "tpu-vm create": "accelerator-type version spot reserved service-account scopes labels network subnetwork "
    "internal-ips async quiet project zone",
    "tpu-vm describe": "format project zone",
    "tpu-vm delete": "quiet async project zone",
    "tpu-vm ssh": "worker ssh-flag command quiet internal-ip project zone",
    "tpu-vm scp": "worker scp-flag recurse quiet internal-ip project zone",
}
"""Flags of the commands that the launcher uses, in gcloud's general release."""


def main(arguments):
    if arguments[0] == "preempt":
        return preempt(arguments[1])
    name = f"{time.monotonic_ns():020}-{os.getpid()}"
    write(HERE / "calls" / name, "\0".join(["gcloud", *arguments]))
    scripted = take_answer(arguments)
    if scripted and "after" not in scripted:
        return give(scripted)
    if scripted and scripted.get("lost"):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    words = [argument for argument in arguments if not argument.startswith("-")]
    status = play(words, flags_of(arguments), arguments)
    return give(scripted) if scripted else status


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(text)
    path.with_suffix(".tmp").rename(path)


def take_answer(arguments):
    for path in sorted((HERE / "answers").glob("*.json")):
        with contextlib.suppress(FileNotFoundError):  # a call beside this one has taken it
            answer = json.loads(path.read_text())
            if all(any(word in argument for argument in arguments) for word in answer["match"]):
                path.rename(path.with_suffix(".used"))
                return answer
    return None


def give(answer):
    sys.stdout.write(answer.get("stdout", ""))
    sys.stderr.write(answer.get("stderr", ""))
    sys.stdout.flush()
    if "signal" in answer:
        os.kill(os.getpid(), answer["signal"])
    return answer.get("status", 0)


def flags_of(arguments):
    pairs = [argument[2:].partition("=") for argument in arguments if argument.startswith("--")]
    return {name: value if equals else True for name, equals, value in pairs}


def fail(code, text):
    print(f"ERROR: (gcloud) {code}: {text}", file=sys.stderr)
    return 1


def play(words, flags, arguments):
    if words[0] == "config":
        print(settings().get(words[2], ""))
        return 0
    if words[0] == "storage":
        return storage(words[1], arguments[2:])
    if words[0] == "secrets":
        file = HERE / "secrets" / flags["secret"]
        if not file.exists():
            return fail("PERMISSION_DENIED", "Permission 'secretmanager.versions.access' denied")
        sys.stdout.write(file.read_text())
        return 0
    kind, verb, name = words[2:5]
    unknown = set(flags) - set(KNOWN[f"{kind} {verb}"].split())
    if unknown:
        return fail("unrecognized arguments", " ".join(sorted(unknown)))
    if verb in ("ssh", "scp"):
        return (ssh if verb == "ssh" else scp)(words, flags)
    with cloud() as there:
        return {"create": create, "describe": describe, "delete": delete}[verb](there, kind, name, flags)


@contextlib.contextmanager
def cloud():
    with (HERE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        there = json.loads((HERE / "cloud.json").read_text())
        yield there
        write(HERE / "cloud.json", json.dumps(there, indent=1))


def settings():
    return json.loads((HERE / "cloud.json").read_text())["settings"]


def create(there, kind, name, flags):
    if name in there[kind]:
        return fail("ALREADY_EXISTS", f"Resource {name} already exists")
    labels = dict(label.split("=") for label in flags.get("labels", "").split(",") if label)
    count = int(flags.get("node-count", 0))
    nodes = [f"{flags['node-prefix']}-{i}" for i in range(count)] or [flags.get("node-id", name)]
    if kind == "queued-resources":
        there[kind][name] = {"state": "ACTIVE", "labels": labels, "nodes": nodes}
    port = free_port()
    for node in nodes:
        there["tpu-vm"][node] = {"state": "READY", "labels": labels, "port": port}
        for worker in range(there["settings"]["hosts"]):
            home(node, worker).mkdir(parents=True)
    return 0


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def describe(there, kind, name, flags):
    found = there[kind].get(name)
    if found is None:
        return fail("NOT_FOUND", f"Resource {name} was not found")
    if kind == "tpu-vm":
        told = {"name": name, "acceleratorType": found.get("type", ""), "state": found["state"]}
        print(json.dumps({**told, "labels": found["labels"]}))
    else:
        specs = [{"nodeId": name, "node": {"labels": found["labels"]}}]
        print(json.dumps({"name": name, "state": {"state": found["state"]}, "tpu": {"nodeSpec": specs}}))
    return 0


def delete(there, kind, name, flags):
    found = there[kind].get(name)
    if found is None:
        return fail("NOT_FOUND", f"Resource {name} was not found")
    if kind == "queued-resources":
        left = [node for node in found["nodes"] if node in there["tpu-vm"]]
        if left and "force" not in flags:
            return fail("FAILED_PRECONDITION", f"nodes {left} are still there")
    else:
        left = [name]
    for node in left:
        there["tpu-vm"].pop(node)
        for path in (HERE / "homes").glob(f"{node}.*"):
            end_jobs(path)
            while path.exists():  # what was killed may still have been writing
                shutil.rmtree(path, ignore_errors=True)
    there[kind].pop(name, None)
    return 0


def preempt(node):
    with cloud() as there:
        there["tpu-vm"][node]["state"] = "PREEMPTED"
        for queued in there["queued-resources"].values():
            queued["state"] = "SUSPENDED" if node in queued["nodes"] else queued["state"]
        for path in (HERE / "homes").glob(f"{node}.*"):
            end_jobs(path)
    return 0


def end_jobs(path):
    """What becomes of a machine's processes when it is taken away."""
    for file in path.glob("unmask/*/state.json"):
        state = json.loads(file.read_text())
        for process in (state.get("supervisor"), state.get("child")):
            with contextlib.suppress(ProcessLookupError, TypeError):
                os.killpg(process[0], signal.SIGKILL)


def home(node, worker):
    return HERE / "homes" / f"{node}.{worker}"


def workers(node, flags):
    found = json.loads((HERE / "cloud.json").read_text())
    if node not in found["tpu-vm"]:
        return None, fail("NOT_FOUND", f"Resource {node} was not found")
    state = found["tpu-vm"][node]["state"]
    if state != "READY":
        return None, fail("unusable", f"This TPU has state {state}")
    every = range(found["settings"]["hosts"])
    return list(every) if flags["worker"] == "all" else [int(flags["worker"])], found


def ssh(words, flags):
    node = words[4]
    chosen, found = workers(node, flags)
    if chosen is None:
        return found
    statuses = {}
    threads = [
        threading.Thread(
            target=lambda w=worker: statuses.update({w: shell(found, node, w, flags["command"])})
        )
        for worker in chosen
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return next((status for status in statuses.values() if status), 0)


def shell(found, node, worker, command):
    own = found["settings"]["environment"]
    values = {"node": node, "worker": worker, "port": found["tpu-vm"][node]["port"]}
    environment = {
        **os.environ,
        "HOME": str(home(node, worker)),
        "TPU_WORKER_ID": str(worker),
        **{name: value.format(**values) for name, value in own.items()},
    }
    return subprocess.run(
        ["sh", "-c", command], cwd=home(node, worker), env=environment, stdin=subprocess.DEVNULL
    ).returncode


def scp(words, flags):
    *files, target = words[4:]
    node, _, folder = target.partition(":")
    chosen, found = workers(node, flags)
    if chosen is None:
        return found
    for worker in chosen:
        for file in files:
            shutil.copy(file, home(node, worker) / folder)
    return 0


def storage(verb, arguments):
    def local(path):
        return HERE / "buckets" / path.removeprefix("gs://")

    path = local(arguments[-1])
    bucket = HERE / "buckets" / path.relative_to(HERE / "buckets").parts[0]
    if not bucket.exists():
        return fail("NOT_FOUND", f"The specified bucket does not exist: {bucket.name}")
    if verb == "cp":
        write(path, sys.stdin.read())
    elif not path.exists():
        return fail("matched no objects", arguments[-1])
    elif verb == "cat":
        sys.stdout.write(path.read_text())
    else:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
