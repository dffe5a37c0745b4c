"""A hub that is busy is asked again when it says; what else goes wrong is not."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

from base.errors import UserError
from base.hub_patience import ATTEMPTS, patiently, tell
from base.hub_requests import Requests, pause_after
from pretrain.models import huggingface
from tokenizer import tokenizer_files


def answered(status: int, headers: dict[str, str] | None = None) -> HfHubHTTPError:
    """What the hub's client raises for an answer."""
    request = httpx2.Request("GET", "https://huggingface.co")
    return HfHubHTTPError("said", response=httpx2.Response(status, request=request, headers=headers))


BUSY = answered(429, {"Retry-After": "40"})


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


def limited(left: int, of: int = 1000, reset: int = 100) -> dict[str, str]:
    """The headers of an answer: `left` requests of a window are left, which ends after `reset` seconds."""
    return {
        "ratelimit": f'"resolvers";r={left};t={reset}',
        "ratelimit-policy": f'"fixed window";"resolvers";q={of};w=300',
    }


@pytest.mark.parametrize(
    ("status", "headers", "longest"),
    [
        (200, {}, 0),
        (206, limited(100), 0),
        (206, limited(99), 2.0),
        (206, limited(9), 20.0),
        (206, limited(0), 30.0),
        (429, {"Retry-After": "40"}, 10.0),
        (429, limited(0, reset=300), 30.0),
        (429, {}, 1.0),
    ],
)  # fmt: skip
def test_requests_are_slowed_down_when_few_are_left(status: int, headers: dict[str, str], longest: float):
    pauses = [pause_after(status, httpx2.Headers(headers)) for _ in range(200)]
    assert all(0 <= pause <= longest for pause in pauses)
    assert max(pauses) >= 0.9 * longest and (not longest or min(pauses) < 0.2 * longest), "hosts differ"


def test_requests_are_counted_and_the_count_is_logged(slept: list[float], caplog: pytest.LogCaptureFixture):
    answers = [httpx2.Response(200)] * 5 + [httpx2.Response(429, headers={"Retry-After": "8"})]
    left = iter(answers)
    client = httpx2.Client(transport=httpx2.MockTransport(lambda request: next(left)))
    requests = Requests()
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr("huggingface_hub.get_session", lambda: client)
        for number in range(len(answers)):
            requests.watch()
            client.get("https://huggingface.co")
            requests.tell()
            assert requests.answers == number + 1
    assert len(slept) == 1 and requests.waited == slept[0]
    told = [record.message for record in caplog.records if record.name == "base.hub_requests"]
    assert [message.split()[4] for message in told] == ["1", "2", "4", "6"], "not after each request"
    assert "it refused 1 for now (429)" in told[-1]


def in_turn(*answers: Exception | str) -> Callable[..., str]:
    """A function that gives one answer a call."""
    left = list(answers)

    def answer(*arguments: object, **named: object) -> str:
        if isinstance(given := left.pop(0), Exception):
            raise given
        return given

    return answer


def test_a_busy_hub_is_asked_again_when_it_says(slept: list[float]):
    assert patiently(in_turn(BUSY, BUSY, "found")) == "found"
    assert len(slept) == 2 and all(40 < seconds < 60 for seconds in slept)


def test_retries_of_the_client_are_not_shown_and_the_model_is_named_once(caplog: pytest.LogCaptureFixture):
    client = logging.getLogger("huggingface_hub.utils._http")

    def retried():
        client.warning("Retrying in 1s")
        return client.isEnabledFor(logging.ERROR)

    before = logging.getLogger("huggingface_hub").level
    with caplog.at_level(logging.INFO):
        assert patiently(retried)
        for _ in range(2):
            tell(logging.getLogger("pretrain"), "runs/named-once")
    assert caplog.messages == ["there is no folder runs/named-once; asking the hub for it"]
    assert logging.getLogger("huggingface_hub").level == before


def test_a_hub_that_stays_busy_is_given_up(slept: list[float]):
    with pytest.raises(HfHubHTTPError):
        patiently(in_turn(*[BUSY] * ATTEMPTS))
    assert len(slept) == ATTEMPTS - 1


@pytest.mark.parametrize("error", [answered(404), ValueError("not of the hub"), OSError("no network")])
def test_another_error_is_raised_at_once(slept: list[float], error: Exception):
    with pytest.raises(type(error)):
        patiently(in_turn(error, "found"))
    assert not slept


def test_downloads_of_models_and_tokenizers_are_patient(
    slept: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    monkeypatch.setattr("huggingface_hub.snapshot_download", in_turn(BUSY, str(tmp_path)))
    assert huggingface.read_config("owner/name") == {"model_type": "roberta"}
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    files = [str(file)] * (1 + len(tokenizer_files.OPTIONAL))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", in_turn(BUSY, *files))
    assert tokenizer_files.read_files("owner/name")["tokenizer.json"] == b"{}"
    assert len(slept) == 2


def test_a_revision_of_a_model_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    (tmp_path / "tokenizer.json").write_text("{}")
    asked: list[tuple[str, str]] = []

    def snapshot(name: str, *, revision: str, **_: object) -> str:
        asked.append((name, revision))
        return str(tmp_path)

    def download(name: str, file: str, *, revision: str) -> str:
        asked.append((name, revision))
        return str(tmp_path / "tokenizer.json")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert huggingface.read_config("owner/name@v2")["model_type"] == "roberta"
    tokenizer_files.read_files("owner/name@v2")
    assert set(asked) == {("owner/name", "v2")}


def test_a_revision_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def snapshot(name: str, **_: object) -> str:
        raise RevisionNotFoundError("no such revision", response=answered(404).response)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(UserError, match="the hub's owner/name has no revision 'v9'; see https"):
        huggingface.read_config("owner/name@v9")
