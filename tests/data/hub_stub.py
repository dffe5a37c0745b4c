"""A small stand-in for the Hugging Face hub on localhost: listings, files, and what can go wrong.

`HubStub` serves repositories held in memory; `Reader` runs the real client (`datasets`, huggingface_hub) against it
in a process of its own, because those libraries read HF_ENDPOINT and HF_HUB_OFFLINE when they are imported.
"""

import contextlib
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"

READER = """
import json, logging, sys, time
import datasets
from data.config import FilterConfig, SourceConfig
from base.errors import UserError
from data.sources import open_source

logging.basicConfig(level=logging.DEBUG)
slept = []
time.sleep = slept.append
for line in sys.stdin:
    asked = json.loads(line)
    slept.clear()
    try:
        filters = FilterConfig(**asked["config"].pop("filters", {}))
        divided = asked["config"].pop("divided", 0)
        source = open_source(SourceConfig(source="hub", filters=filters, **asked["config"]))
        if divided:
            source = source.divided(divided, divided)
            if isinstance(source, str):
                raise UserError(source)
        reads = [[list(record) for record in source.read(*read)] for read in asked["reads"]]
        answer = {"shards": list(source.shards), "fingerprint": source.fingerprint(), "reads": reads}
        answer["slept"] = list(slept)
    except UserError as error:
        answer = {"error": str(error), "slept": sum(slept)}
    print(json.dumps(answer), flush=True)
"""


class HubStub:
    """Serves `repositories` (id -> path -> content) on a free port; `gated` ids answer 401 or 403."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.breaks: dict[str, int] = {}
        """File name -> how many of its next downloads, from `break_from` bytes on, are cut off in the middle."""
        self.break_from = 0
        self.busy: dict[str, int] = {}
        """Repository -> how many of its next requests of the API are answered with 429 and `Retry-After: 40`."""
        self.requests: list[str] = []
        self.tokens: set[str] = set()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def handler(self) -> type["Handler"]:
        """What answers a request."""
        return type("HandlerOfThis", (Handler,), {"hub": self})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubStub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Handler(http.server.BaseHTTPRequestHandler):
    """One request; `_route` says who answers it."""

    protocol_version = "HTTP/1.1"
    hub: HubStub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").split("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {self.path}")
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        self._route(path, body)

    def _route(self, path: list[str], body: bytes) -> None:
        api = path[0] == "api"
        repository = "/".join(path[2:4] if api else path[1:3])
        rest = path[4:] if api else path[3:]
        files = self.hub.repositories.get(repository)
        if files is None:
            return self._error(401 if not self.headers.get("Authorization") else 404, "RepoNotFound")
        if api and self.hub.busy.get(repository, 0):
            self.hub.busy[repository] -= 1
            return self._send(429, b"{}", {"Retry-After": "40"})
        if repository in self.hub.gated:
            return self._error(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        if rest[:1] == ["resolve"]:
            return self._file("/".join(rest[2:]), files)
        if rest[:1] == ["tree"]:
            return self._json(_tree(files, "/".join(rest[2:]), "recursive=true" in self.path.lower()))
        if rest[:1] == ["paths-info"]:
            wanted = json.loads(body) if body.startswith(b"{") else urllib.parse.parse_qs(body.decode())
            return self._json([entry for name in wanted["paths"] for entry in _entries(files, name)])
        siblings = [{"rfilename": name} for name in files]
        return self._json(
            {
                "id": repository,
                "sha": COMMIT,
                "siblings": siblings,
                "tags": [],
                "private": repository in self.hub.private,
            }
        )

    def _file(self, name: str, files: dict[str, bytes]) -> None:
        if name not in files:
            return self._error(404, "EntryNotFound")
        content, status, begin = files[name], 200, 0
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(content)}"', "Accept-Ranges": "bytes"}
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            end = min(int(last) + 1 if last else len(content), len(content))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            begin = int(first)
            content, status = content[begin:end], 206
        sent = len(content)
        if self.command == "GET" and self.hub.breaks.get(name, 0) and begin >= self.hub.break_from:
            self.hub.breaks[name] -= 1
            sent //= 2
        self._send(status, content, headers, sent)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._send(status, b'{"error": "refused"}', {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, content: bytes, headers: dict[str, str], sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
        if sent is not None and sent < len(content):
            self.close_connection = True


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _entries(files: dict[str, bytes], name: str) -> Iterator[dict[str, Any]]:
    if name in files:
        yield {"type": "file", "path": name, "size": len(files[name]), "oid": _digest(files[name])}
    elif any(path.startswith(f"{name}/") for path in files):
        yield {"type": "directory", "path": name, "oid": _digest(name.encode()), "size": 0}


def _tree(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    names: set[str] = set()
    for path in files:
        if path.startswith(prefix):
            parts = path.removeprefix(prefix).split("/")
            names |= {
                prefix + "/".join(parts[:depth]) for depth in range(1, len(parts) + 1 if recursive else 2)
            }
    return [entry for name in sorted(names) for entry in _entries(files, name)]


class Reader:
    """The hub source in a process of its own, asked one thing at a time."""

    def __init__(self, hub: HubStub, home: Path, token: str = ""):
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
        }
        environment |= {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home),
            "NO_PROXY": "127.0.0.1",
        }
        environment |= {"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
        self._log = (home / "log").open("wb+")
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=Path(__file__).parents[2],
            env=environment,
            text=True,
        )

    def ask(self, *reads: tuple[int, int], **config: Any) -> dict[str, Any]:
        """Open the source with `config`, read (shard, start) pairs; an error is answered as {'error': message}."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"config": config, "reads": reads}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self.log()
        return json.loads(line)

    def log(self) -> str:
        """What the process has written to stderr."""
        self._log.seek(0)
        return self._log.read().decode()

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(timeout=30)
        self._process.kill()
        self._log.close()
