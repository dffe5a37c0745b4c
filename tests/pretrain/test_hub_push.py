"""Pushing to the hub, with the real client, against a stand-in for the hub on localhost; the token stays unseen."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from pretrain.devices.mesh import make_mesh
from pretrain.export import main
from pretrain.publish import hub_upload
from pretrain.train import train
from tests.data.hub_stub import HubStub
from tests.pretrain.hub_push_stub import QUOTA, Client, PushStub
from tests.tiny import tiny_config, write_corpus

WRITER, READER, UNKNOWN = "hf_canaryOfTheTestsWriter", "hf_canaryOfTheTestsReader", "canary-of-no-known-shape"
CARD = b"---\nlicense: apache-2.0\n---\n# model\n"
WEIGHTS = np.random.default_rng(0).bytes(200_000)
CONTENT = {"README.md": CARD, "config.json": b"{}", "model.safetensors": WEIGHTS}


@pytest.fixture(scope="module")
def stub():
    with PushStub({WRITER}, {READER}) as stub:
        yield stub


@pytest.fixture(autouse=True)
def empty(stub: PushStub):
    yield
    for state in (stub.repositories, stub.private, stub.commits, stub.fails, stub.large, stub.requests):
        state.clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("disable_xet", ["0", "1"])
def test_the_folder_is_in_one_commit_of_a_private_repository(
    stub: PushStub, folder: Path, tmp_path: Path, disable_xet: str
):
    """By either way that large files go: xet, where the stand-in takes the chunks unread, and plain LFS."""
    client = Client(stub.url, tmp_path / "home", WRITER, HF_HUB_DISABLE_XET=disable_xet)
    answer = client.push(folder, "me/model", message="Step 20")
    assert answer["url"] == f"{stub.url}/me/model"
    operations = {"README.md": "file", "config.json": "file", "model.safetensors": "lfsFile"}
    assert stub.commits == [("me/model", "Step 20", operations)]
    assert stub.private == {"me/model"}
    held = stub.repositories["me/model"]
    assert held.pop(".gitattributes") == b"" and held.keys() == CONTENT.keys()
    assert {name: held[name] for name in ("README.md", "config.json")} == {
        name: CONTENT[name] for name in ("README.md", "config.json")
    }
    if disable_xet == "1":
        assert held["model.safetensors"] == WEIGHTS
    else:
        assert any("/cas/v1/xorbs/" in request for request in stub.requests)


def test_the_requests_are_in_the_log_and_the_token_is_not(stub: PushStub, folder: Path, tmp_path: Path):
    answer = Client(stub.url, tmp_path / "home", WRITER).push(folder, "me/model")
    assert f"Bearer {WRITER}" in stub.tokens
    assert "authorization: <TOKEN>" in answer["log"] and WRITER not in answer["log"]


def test_public_makes_a_new_repository_public(stub: PushStub, folder: Path, tmp_path: Path):
    Client(stub.url, tmp_path / "home", WRITER).push(folder, "me/model", private=False)
    assert "me/model" in stub.repositories and stub.private == set()


def test_a_repository_that_is_there_keeps_its_visibility_and_its_other_files(
    stub: PushStub, folder: Path, tmp_path: Path
):
    kept = {"notes.md": b"mine", "onnx/model.onnx": b"mine"}
    stale = {
        "model.onnx": b"old",
        "model-00001-of-00002.safetensors": b"old",
        "model.safetensors.index.json": b"{}",
    }
    client = Client(stub.url, tmp_path / "home", WRITER)
    stub.repositories["me/model"] = {**kept, **stale}
    answer = client.push(folder, "me/model", private=True)
    assert stub.private == set(), "a public one stays public"
    assert "me/model is a public repository already and stays one" in answer["log"]
    assert f"of another model: {', '.join(sorted(stale))}" in answer["log"]
    assert stub.repositories["me/model"].keys() == {*kept, *CONTENT}
    assert len(stub.commits) == 1

    stub.private = {"me/model"}
    client.push(folder, "me/model", private=False)
    assert stub.private == {"me/model"}, "a private one stays private"


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "needs a token with write access: make one on https://huggingface.co/settings/tokens"),
        (UNKNOWN, "the hub refuses the token (401); make another on"),
        (READER, "the token may not write there (403: You don't have the rights"),
    ],
)
def test_a_token_that_will_not_do_is_one_line(
    stub: PushStub, folder: Path, tmp_path: Path, token: str, message: str
):
    answer = Client(stub.url, tmp_path / "home", token).push(folder, "me/model")
    assert answer["error"].startswith("--push_to_hub=me/model") and message in answer["error"]
    assert "take a token with write access to me" in answer["error"] or token != READER
    assert stub.repositories == {}
    assert "base.errors.UserError: --push_to_hub" in answer["log"], (
        "the traceback, without the client's exceptions"
    )
    assert "During handling" not in answer["log"] and "direct cause" not in answer["log"]


@pytest.mark.parametrize(
    ("disable_xet", "part", "status", "said", "message"),
    [
        ("1", "/storage/", 403, QUOTA, "no room for it on the hub (403: Private repository storage limit"),
        (
            "0",
            "xet-write-token",
            403,
            QUOTA,
            "no write access to me (https://huggingface.co/settings/tokens), or the",
        ),
        (
            "0",
            "/commit/",
            403,
            "No write access",
            "the token may not write there (403: No write access); take",
        ),
        ("0", "/commit/", 402, "Payment required", "no room for it on the hub (402: Payment required); free"),
        ("0", "/commit/", 429, "Slow down", "the hub has had too many requests (429: Slow down)"),
        ("0", "/commit/", 501, "Down", "the hub cannot be reached (Down); push again when it can"),
        ("0", "/preupload/", 400, "Odd", "--push_to_hub=me/model: BadRequestError: Odd"),
        ("0", "/validate-yaml", 400, "No licence", "ValueError: Invalid metadata in README.md. - No licence"),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_nothing_is_committed(
    stub: PushStub,
    folder: Path,
    tmp_path: Path,
    disable_xet: str,
    part: str,
    status: int,
    said: str,
    message: str,
):
    stub.fails = {part: (status, said)}
    client = Client(stub.url, tmp_path / "home", WRITER, HF_HUB_DISABLE_XET=disable_xet)
    answer = client.push(folder, "me/model")
    assert message in answer["error"]
    assert stub.commits == []


def test_a_hub_that_is_not_there_is_one_line(folder: Path, tmp_path: Path):
    with HubStub() as gone:
        endpoint = gone.url
    answer = Client(endpoint, tmp_path / "home", WRITER).push(folder, "me/model")
    assert "--push_to_hub=me/model: the hub cannot be reached (" in answer["error"]


@pytest.mark.parametrize(
    "repo_id",
    ["model", "me/my model", "me/", "a/b/c", "me/a--b", "me/../b", "https://huggingface.co/me/model", "é/a"],
)
def test_what_is_no_id_is_refused_before_anything_is_sent(repo_id: str):
    with pytest.raises(
        UserError, match=r"is not an id on the hub; write USER/NAME or ORGANISATION/NAME"
    ) as error:
        hub_upload.check(repo_id)
    assert str(error.value).startswith(f"--push_to_hub={repo_id} ")


def test_a_token_given_as_the_id_is_not_repeated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", UNKNOWN)
    for repo_id, shown in ((WRITER, "hf_***"), (f"{UNKNOWN}/x/y", "***/x/y")):
        with pytest.raises(UserError, match=r"is not an id on the hub") as error:
            hub_upload.check(repo_id)
        assert str(error.value).startswith(f"--push_to_hub={shown} ")


def test_offline_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"me/model: HF_HUB_OFFLINE is set in the environment; unset it"):
        hub_upload.check("me/model")


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_uploaded_is_staged_in_a_folder_that_goes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
):
    """Files in a bucket are copied, since the client reads local ones only; a local checkpoint is not."""
    monkeypatch.setattr(hub_upload, "is_remote", lambda path: remote)
    folder = shutil.copytree(folder, tmp_path / "embedder")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_bytes(b"{}")
    with hub_upload._staged(epath.Path(folder), {"README.md": b"of the hub"}) as local:
        files = [file for file in local.rglob("*") if file.is_file()]
        assert {str(file.relative_to(local)): file.read_bytes() for file in files} == {
            **CONTENT,
            "README.md": b"of the hub",
            "1_Pooling/config.json": b"{}",
        }
        assert (local / "model.safetensors").is_symlink() != remote
    assert not local.exists() and (folder / "README.md").read_bytes() == CARD


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pretrain.reports.metric_writer.EventWriter", lambda folder: None
        )  # seconds of importing
        patch.setattr("pretrain.job.make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
        train(tiny_config(write_corpus(folder / "corpus.txt"), steps=2), epath.Path(folder / "run"))
    return folder / "run"


def test_the_command_exports_and_uploads_exactly_what_it_wrote(stub: PushStub, workdir: Path, tmp_path: Path):
    client = Client(stub.url, tmp_path / "home", WRITER, HF_HUB_DISABLE_XET="1")
    out = tmp_path / "out"
    command = ["-m", "pretrain.export", f"--workdir={workdir}", f"--out={out}", "--push_to_hub=me/model"]
    done = client.run(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"on the hub: {stub.url}/me/model"
    held = stub.repositories["me/model"]
    held.pop(".gitattributes")
    assert held == {file.name: file.read_bytes() for file in out.iterdir()}
    assert stub.private == {"me/model"} and [message for _, message, _ in stub.commits] == ["Step 2"]

    refused = Client(stub.url, tmp_path / "other", UNKNOWN).run(*command, "--overwrite")
    assert refused.returncode == 2
    assert "error: --push_to_hub=me/model: the hub refuses the token (401)" in refused.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--push_to_hub=model", "--push_to_hub=model is not an id on the hub"),
        ("--public", "--public has no effect without --push_to_hub=USER/NAME, which is not given"),
    ],
)
def test_the_command_refuses_before_it_exports(workdir: Path, tmp_path: Path, flag: str, message: str):
    with pytest.raises(UserError, match=message):
        main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}", flag])
    assert not (tmp_path / "out").exists()
