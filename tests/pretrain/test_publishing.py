"""Of paths nothing but their last names is published."""

import pytest

from data.sources import paths
from pretrain.publish.public_names import path_names


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/data/acme/mail.txt", "mail.txt"),
        (r"/data/acme\, inc/mail.txt", "mail.txt"),
        (r"/data/acme\, inc/a\,b.txt, other/c.txt", r"a\,b.txt,c.txt"),
        ("gs://bucket/secret/a.txt,gs://bucket/b/*.txt", "a.txt,*.txt"),
        ("/home/someone", "~"),
        ("", ""),
    ],
)
def test_paths_are_shown_by_their_last_names(given, shown):
    assert path_names(given) == shown


def test_a_file_whose_name_has_a_comma_is_one_path(tmp_path):
    folder = tmp_path / "acme, inc"
    folder.mkdir()
    (folder / "a,b.txt").write_text("x")
    assert path_names(str(folder / "a,b.txt")) == r"a\,b.txt"


def test_no_store_is_asked_for_the_names_of_a_list_of_addresses(monkeypatch):
    monkeypatch.setattr(paths, "_is_file", lambda path: pytest.fail("asked"))
    assert path_names("gs://bucket/secret/a.txt, gs://bucket/b.txt") == "a.txt,b.txt"
