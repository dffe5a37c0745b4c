"""An address with a password is refused wherever a config may hold one, and is not shown."""

from pathlib import Path

import pytest

from base.command_line import parse
from base.errors import UserError
from base.passwords import check_no_password
from data.sources.paths import find_files, walk_files
from pretrain.config import PretrainConfig

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.py"
WITH = (
    "https://user:hunter2@host/x.txt",
    "http://hunter2@host/x.txt",
    "s3://key:hunter2@bucket/x.txt",
    "a.txt, ftp://me:hunter2@host:21/x.txt",
    "sftp://:hunter2@host/x",
)
WITHOUT = (
    "",
    "gs://bucket/a@b:c/x.txt",
    "http://host:8080/a@b.txt",
    "hf://datasets/owner/name@main/x.txt",
    "sftp://user@host/x",
    "gs://a/x,gs://b/y@z",
    "a:b@c",
)


@pytest.mark.parametrize("address", WITH)
def test_an_address_with_a_password_is_refused_and_not_shown(address: str) -> None:
    for refuse in (check_no_password, find_files, walk_files):
        with pytest.raises(
            UserError, match=r"^config\.x holds an address with a password \(\w+://"
        ) as raised:
            refuse(address, "config.x")
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("address", WITHOUT)
def test_other_addresses_are_not(address: str) -> None:
    check_no_password(address, "config.x")


@pytest.mark.parametrize(
    "field",
    [
        "data.path",
        "data.data_dir",
        "init_from",
        "tokenizer.path",
        "data.eval_source.path",
        "compilation_cache",
    ],
)
def test_a_command_refuses_it_before_anything_is_written(field: str) -> None:
    argv = ["pretrain", f"--config={QUICKSTART}", f"--config.{field}={WITH[0]}"]
    with pytest.raises(UserError, match=rf"^config\.{field} holds an address with a password") as raised:
        parse(PretrainConfig, argv, lambda values: None)
    assert "hunter2" not in str(raised.value)
