"""Ids and errors of the Hugging Face hub: one rule for ids, and one reading of what its client raises."""

import httpx2
import pytest
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import errors

from base import hub_errors
from base.hub_errors import Problem
from base.hub_ids import is_id


@pytest.mark.parametrize(
    "name", ["bert-base-uncased", "owner/name", "Owner_1/na.me-2", "a/b", "_a/b_", "x" * 96]
)
def test_ids_of_the_hub(name: str):
    assert is_id(name) and is_id(name, with_owner=True) == ("/" in name)


@pytest.mark.parametrize(
    "name",
    ["", "a/b/c", "/a", "a/", ".a/b", "a/b-", "a--b", "a/b..c", "a/b.git", "a b", "é/a", "~/a", "x" * 97],
)
def test_what_is_no_id(name: str):
    assert not is_id(name) and not is_id(name, with_owner=True)


def _answered(kind: type[Exception], status: int) -> Exception:
    request = httpx2.Request("GET", "https://huggingface.co")
    return kind("said", response=httpx2.Response(status, request=request))


def _from(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (_answered(errors.GatedRepoError, 403), Problem.GATED),
        (_from(DatasetNotFoundError("x"), _answered(errors.GatedRepoError, 401)), Problem.GATED),
        (_answered(errors.RepositoryNotFoundError, 404), Problem.MISSING),
        (DatasetNotFoundError("x"), Problem.MISSING),
        (_from(ValueError("x"), _answered(errors.RevisionNotFoundError, 404)), Problem.NO_REVISION),
        (errors.LocalEntryNotFoundError("x"), Problem.UNREACHABLE),
        (_from(ValueError("x"), ConnectionResetError("x")), Problem.UNREACHABLE),
        (_from(OSError("x"), httpx2.ConnectError("x")), Problem.UNREACHABLE),
        (_answered(errors.HfHubHTTPError, 503), Problem.UNREACHABLE),
        (_from(_answered(errors.HfHubHTTPError, 400), ConnectionResetError("x")), Problem.OTHER),
        (ValueError("x"), Problem.OTHER),
    ],
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
def test_what_an_exception_means(error: Exception, meaning: Problem):
    assert hub_errors.problem(error) is meaning


def test_a_message_is_one_line_without_tokens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "canary-of-no-known-shape")
    error = ValueError("one\n two canary-of-no-known-shape hf_canaryOfTheTests " + "x" * 400)
    assert hub_errors.one_line(error) == ("one two *** hf_*** " + "x" * 400)[:300]
    assert hub_errors.one_line(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            _answered(errors.GatedRepoError, 403),
            "the hub's a/b is gated: accept its terms on its page there, then",
        ),
        (
            _answered(errors.RepositoryNotFoundError, 404),
            "there is no folder a/b, and no model of that id on the hub",
        ),
        (
            errors.LocalEntryNotFoundError("x"),
            "there is no folder a/b; config.json of the hub's model a/b is not in the local cache",
        ),
        (OSError("disk"), "config.json of a/b could not be downloaded from the hub: disk"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_message_for_a_model(error: Exception, message: str):
    assert str(hub_errors.of_model(error, "a/b", "config.json")).startswith(message)
