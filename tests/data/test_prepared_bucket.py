"""A prepared corpus in a bucket, against an emulator of Google Cloud Storage: written there, and copied by parts."""

from pathlib import Path

import numpy as np
import pytest
from etils import epath

from base import lock
from base.errors import UserError
from data.config import DataConfig, SourceConfig
from data.prepare.config import LengthConfig, PrepareConfig
from data.prepare.preparation import Task, prepare
from data.prepared.source import PreparedSource
from tests.data.test_batches import take
from tests.gcs_emulator import Emulator, emulator, folder, gcs  # noqa: F401  # fixtures
from tests.tiny import write_corpus
from tokenizer.config import TokenizerConfig

BUCKET = folder("corpora/no")


def test_shards_are_written_to_a_bucket_and_copied_from_it_once(
    tmp_path: Path,
    gcs: Emulator,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = write_corpus(tmp_path / "text.txt")
    config = PrepareConfig(steps=("length",), length=LengthConfig(min_words=5, min_mean_word=1.0), shards=4)
    data = DataConfig(source="files", path=str(text))
    task = Task(config, data, TokenizerConfig(vocab_size=300, min_frequency=1), 32)
    here = epath.Path(tmp_path / "here")
    here.mkdir()
    prepare(task, here, None, 1)
    with lock.held(BUCKET, "--out", "prepares"):
        prepare(task, BUCKET, tmp_path / "work", 1)
    names = sorted(path.relative_to(here).as_posix() for path in Path(here).rglob("*") if path.is_file())
    assert gcs.names(str(BUCKET)) == names
    assert all((BUCKET / name).read_bytes() == (here / name).read_bytes() for name in names)

    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    reading = DataConfig(source="prepared", path=str(BUCKET), streams=4)
    local = DataConfig(source="prepared", path=str(here), streams=4)
    gcs.requests.clear()
    gcs.fail("GET .*shard-00001-of-00004.array_record", 503, times=1)
    remote, beside = (PreparedSource(each) for each in (reading, local))
    shape = {"rows": range(2, 4), "seq_len": 32}
    for one, other in zip(
        take(reading, [remote], 20, **shape), take(local, [beside], 20, **shape), strict=True
    ):
        np.testing.assert_array_equal(one.arrays["tokens"], other.arrays["tokens"])
    copied = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert copied and "shard-00003-of-00004.array_record" not in copied, (
        "the shards of other streams stay there"
    )
    gcs.requests.clear()
    take(reading, [PreparedSource(reading)], 20, **shape)
    assert [each for each in gcs.requests if "array_record" in each] == [], "nothing is copied again"
    with pytest.raises(UserError, match=r"config.data.path='gs://bucket/none': there is no such folder"):
        PreparedSource(SourceConfig(source="prepared", path="gs://bucket/none"))
