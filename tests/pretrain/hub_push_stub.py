"""The stand-in for the hub on localhost, taking uploads: repositories made, LFS and xet storage, commits."""

import base64
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.data.hub_stub import COMMIT, Handler, HubStub

LARGE = (".safetensors", ".png", ".onnx")
QUOTA = "Private repository storage limit reached, please upgrade your plan"


class PushStub(HubStub):
    """Takes what `writers` (tokens) upload; `readers` may not write, and any other token is unknown."""

    def __init__(self, writers: set[str], readers: set[str]) -> None:
        super().__init__()
        self.writers, self.readers = writers, readers
        self.commits: list[tuple[str, str, dict[str, str]]] = []
        """Repository, message, and name -> operation of each commit."""
        self.fails: dict[str, tuple[int, str]] = {}
        """A part of a path -> the status and message that requests for such paths get."""
        self.large: dict[str, bytes] = {}
        """sha256 -> content of what was uploaded as LFS objects."""

    def handler(self) -> type[Handler]:
        """What answers a request."""
        return type("PushHandlerOfThis", (PushHandler,), {"hub": self})


class PushHandler(Handler):
    """One request, of an upload or anything else."""

    hub: PushStub

    def _route(self, path: list[str], body: bytes) -> None:
        for part, (status, message) in self.hub.fails.items():
            if part in self.path:
                return self._refuse(status, message)
        if path[0] == "storage":
            self.hub.large[path[1]] = body
            return self._json({})
        if path[0] == "cas":
            return self._cas(path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in self.hub.writers | self.hub.readers:
            return self._refuse(401, "Invalid credentials in Authorization header")
        if token in self.hub.readers and self.command != "GET":
            return self._refuse(403, "You don't have the rights to create a model under this namespace")
        if path[:3] == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if path[:2] == ["api", "validate-yaml"]:
            return self._json({"warnings": [], "errors": []})
        if path[-2:] == ["objects", "batch"]:
            return self._json({"objects": [self._place(entry) for entry in json.loads(body)["objects"]]})
        repository, rest = "/".join(path[2:4]), path[4:]
        if rest[:1] == ["preupload"]:
            files = [self._mode(entry) for entry in json.loads(body)["files"]]
            return self._json({"files": files})
        if rest[:1] == ["xet-write-token"]:
            return self._json(
                {"accessToken": "xet", "exp": int(time.time()) + 3600, "casUrl": f"{self.hub.url}/cas"}
            )
        if rest[:1] == ["commit"]:
            return self._commit(repository, [json.loads(line) for line in body.splitlines()])
        return super()._route(path, body)

    def _create(self, asked: dict[str, Any]) -> None:
        repository = f"{asked['organization']}/{asked['name']}"
        answer = json.dumps({"url": f"{self.hub.url}/{repository}"}).encode()
        if repository in self.hub.repositories:
            return self._send(409, answer, {"Content-Type": "application/json"})
        self.hub.repositories[repository] = {".gitattributes": b""}
        if asked.get("visibility") == "private":
            self.hub.private.add(repository)
        return self._send(200, answer, {"Content-Type": "application/json"})

    def _mode(self, entry: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if entry["path"].endswith(LARGE) else "regular"
        return {"path": entry["path"], "uploadMode": mode, "shouldIgnore": False}

    def _place(self, entry: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.url}/storage/{entry['oid']}"
        return {**entry, "actions": {"upload": {"href": href, "header": {}}}}

    def _cas(self, path: list[str]) -> None:
        """The content-addressed storage of xet: everything is taken, nothing was there before."""
        if path[1:3] == ["v1", "xorbs"]:
            return self._json({"was_inserted": True})
        if path[1:3] == ["v1", "shards"]:
            return self._json({"result": 1})
        return self._send(404, b"", {})

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        files, done = self.hub.repositories[repository], {}
        message = next(line["value"]["summary"] for line in lines if line["key"] == "header")
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large.get(value["oid"], value["oid"].encode())
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            if line["key"] != "header":
                done[value["path"]] = line["key"]
        self.hub.commits.append((repository, message, done))
        url = f"{self.hub.url}/{repository}/commit/{COMMIT}"
        self._json({"commitUrl": url, "commitOid": COMMIT, "pullRequestUrl": None})

    def _refuse(self, status: int, message: str) -> None:
        self._send(
            status,
            json.dumps({"error": message, "errors": [{"message": message}]}).encode(),
            {"X-Error-Message": message},
        )


PUSH = """
import json, logging, sys, time, traceback
from base.errors import UserError
from pretrain.publish.hub_upload import push

logging.basicConfig(level=logging.DEBUG)
time.sleep = lambda seconds: None  # the client waits before it sends a request again
asked = json.loads(sys.argv[1])
try:
    print(json.dumps({"url": push(asked.pop("folder"), asked.pop("repo_id"), **asked)}))
except UserError as error:
    traceback.print_exc()
    print(json.dumps({"error": str(error)}))
"""


class Client:
    """Commands in processes of their own, since huggingface_hub reads its environment when it is imported."""

    def __init__(self, endpoint: str, home: Path, token: str = "", **environment: str):
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
        }
        self._environment = {
            **inherited,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_DEBUG": "1",
            "NO_PROXY": "127.0.0.1",
            **({"HF_TOKEN": token} if token else {}),
            **environment,
        }
        self._home, self._token = home, token
        home.mkdir(exist_ok=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A Python command; the token is in nothing that it writes, on the terminal or in HF_HOME."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=Path(__file__).parents[2],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if self._token:
            secret = re.compile(re.escape(self._token).encode())
            written = [done.stdout.encode(), done.stderr.encode()]
            written += [file.read_bytes() for file in self._home.rglob("*") if file.is_file()]
            assert not any(secret.search(text) for text in written)
        return done

    def push(self, folder: Path, repo_id: str, **asked: Any) -> dict[str, str]:
        """What `hub_upload.push` gives: {"url": ...}, or {"error": the one line of its UserError}; and "log"."""
        asked = {"folder": str(folder), "repo_id": repo_id, "message": "Step 20", **asked}
        done = self.run("-c", PUSH, json.dumps(asked))
        assert done.stdout, done.stderr
        answer = json.loads(done.stdout.splitlines()[-1])
        assert "\n" not in answer.get("error", "")
        return {**answer, "log": done.stderr}
