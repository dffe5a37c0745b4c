"""The folder that a flag names, and what is none."""

import pytest

from base.errors import UserError
from base.places import place_of


def test_a_path_is_taken_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(place_of("~/run", "--workdir")) == str(tmp_path / "run")
    assert str(place_of("gs://bucket/run", "--workdir")) == "gs://bucket/run"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://host/run", "^--workdir=https://host/run should be a local path or gs://BUCKET/NAME$"),
        ("https://me:secret@host/run", "^--workdir holds an address with a password"),
        ("gs://me:secret@bucket/run", "^--workdir holds an address with a password"),
    ],
)
def test_what_is_no_place_is_one_line_without_the_password(text, message):
    with pytest.raises(UserError, match=message) as error:
        place_of(text, "--workdir")
    assert "secret" not in str(error.value)
