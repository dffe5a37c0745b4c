"""A hub of branches, in place of the client of huggingface_hub."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from pretrain import step_pushes


class Hub:
    """Stands in for huggingface_hub.HfApi."""

    def __init__(self):
        self.branches: dict[str, dict[str, bytes]] = {"main": {}}
        self.refusals = 0
        """Uploads that are refused, from the next one on."""
        self.open = threading.Event()
        self.open.set()

    def create_repo(self, repo_id, *, private, exist_ok):
        assert private and exist_ok
        return f"https://hub/{repo_id}"

    def create_branch(self, repo_id, *, branch, exist_ok):
        assert exist_ok
        self.branches.setdefault(branch, dict(self.branches["main"]))

    def model_info(self, repo_id, *, revision=None):
        files = self.branches[revision or "main"]
        return SimpleNamespace(private=True, siblings=[SimpleNamespace(rfilename=name) for name in files])

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns, revision=None):
        assert self.open.wait(60)
        if self.refusals:
            self.refusals -= 1
            raise OSError("the hub\nis down")
        content = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
        self.branches[revision or "main"] = {**content, "message": commit_message.encode()}


def installed(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Put a hub in the place of the client; checkpoints are looked for at once."""
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "token")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(step_pushes, "LOOK_SECONDS", 0.01)
    return hub
