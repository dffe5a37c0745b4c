"""A bucket on this machine: gcp-storage-emulator in a thread, reached by the real clients, with faults on demand.

`emulator` is the fixture. Environment variables lead the clients of this process, and of those it starts, to it.
"""

import json
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import HTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from etils import epath
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

RESET = 0
"""In place of an HTTP status: the connection is cut."""


class Fault:
    """What happens to the next `times` requests that match a pattern ("METHOD /path?query", decoded)."""

    def __init__(self, pattern: str, status: int, times: int, message: str, action: Callable[[], None]):
        self.pattern = re.compile(pattern)
        self.status, self.left, self.message, self.action = status, times, message, action
        self.met = 0
        """Requests that it happened to."""


class Emulator:
    """What the server keeps, what it was asked, and the faults it is to show."""

    def __init__(self, storage: Storage):
        self.storage = storage
        self.requests: list[str] = []
        self.faults: list[Fault] = []

    def fail(
        self,
        pattern: str,
        status: int,
        times: int = 10**6,
        *,
        message: str = "try later",
        action: Callable[[], None] = lambda: None,
    ) -> Fault:
        """Answer the next `times` requests that match with a status, or RESET; `action` is called before."""
        self.faults.append(Fault(pattern, status, times, message, action))
        return self.faults[-1]

    def fault(self, request: str) -> Fault | None:
        """What is to happen to a request."""
        self.requests.append(request)
        for fault in self.faults:
            if fault.left and fault.pattern.search(request):
                fault.left -= 1
                fault.met += 1
                return fault
        return None

    def names(self, folder: str) -> list[str]:
        """The objects of a folder (gs://BUCKET/NAME), as paths in it."""
        bucket, _, prefix = folder.removeprefix("gs://").partition("/")
        prefix = prefix.rstrip("/") + "/"
        objects = self.storage.objects.get(bucket, {})
        return sorted(name.removeprefix(prefix) for name in objects if name.startswith(prefix))


class _Handler(RequestHandler):
    def __init__(self, emulator: Emulator, *arguments: Any):
        self._emulator = emulator
        super().__init__(emulator.storage, *arguments)

    def parse_request(self) -> bool:
        """Whether the request is to be answered as usual."""
        if not super().parse_request():
            return False
        fault = self._emulator.fault(f"{self.command} {unquote(self.path)}") or self._condition()
        if fault is not None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault.action()
            self._show(fault)
        return fault is None

    def end_headers(self) -> None:
        """Tell the generation of what is read, as TensorStore expects it."""
        if self.command == "GET" and (generation := self._generation()):
            self.send_header("x-goog-generation", generation)
        super().end_headers()

    def _condition(self) -> Fault | None:
        """What the emulator leaves out: a write or read that depends on the generation."""
        query = parse_qs(urlsplit(self.path).query)
        generation = self._generation() or "0"
        if query.get("ifGenerationMatch", [generation]) != [generation]:
            return Fault("", 412, 1, "conditionNotMet", lambda: None)
        if generation != "0" and query.get("ifGenerationNotMatch") == [generation]:
            return Fault("", 304, 1, "", lambda: None)
        return None

    def _generation(self) -> str:
        """Of the object that the request names; empty where there is none."""
        url = urlsplit(self.path)
        named = re.fullmatch(r".*/b/([^/]+)/o(?:/(.+))?", url.path)
        if named is None:
            return ""
        name = named[2] or parse_qs(url.query).get("name", [""])[0]
        stored = self._emulator.storage.objects.get(named[1], {}).get(unquote(name), {})
        return str(stored.get("generation", ""))

    def _show(self, fault: Fault) -> None:
        if fault.status == RESET:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        error = {"error": {"code": fault.status, "message": fault.message}}
        body = b"" if fault.status == 304 else json.dumps(error).encode()
        self.send_response(fault.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(HTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed, or a connection that was cut: nothing to say."""


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """The emulator with the bucket gs://bucket."""
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket("bucket", storage)
    running = Emulator(storage)
    server = _Server(("127.0.0.1", 0), partial(_Handler, running))
    address = f"http://127.0.0.1:{server.server_port}"
    variables = {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address}
    variables["GCE_METADATA_ROOT"] = address.removeprefix(
        "http://"
    )  # TensorStore looks for credentials there
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield running
    server.shutdown()
    server.server_close()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def gcs(emulator: Emulator) -> Iterator[Emulator]:
    """The emulator for one test: its faults end with it."""
    emulator.requests.clear()
    yield emulator
    emulator.faults.clear()


def folder(name: str) -> epath.Path:
    """gs://bucket/NAME."""
    return epath.Path(f"gs://bucket/{name}")
