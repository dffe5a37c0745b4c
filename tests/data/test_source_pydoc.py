"""The embedded corpus: English prose from docstrings, the same at every run, without importing what it reads."""

import subprocess
import sys
from pathlib import Path

import pytest

from base.errors import UserError
from data.config import FilterConfig, SourceConfig
from data.sources import open_source, pydoc
from data.sources.prose import is_prose, paragraphs

DOCSTRING = """Summary of what the function does, which is the sentence that a reader of it needs.

    The second paragraph goes on over
    two lines and uses :class:`~numpy.ndarray`, ``code`` and `a link <https://example.org>`_ in it.

    Example of what is left out, because it is the opening of a block that is code::

        The quick brown fox is in the block of code and that is why it is left out of it.

    Parameters
    ----------
    size : int
        The number of elements in the array, where all of them are of the same type.

    Args:
      name: the name of the thing that is to be found
        in the table of all the things.
      other (str, optional): The value to use in place of it when there is none in the table.

    >>> The doctest that is in the text is not a part of the prose in it.
    1

    ==========  ===============================================================
    a table     The cells of a table are not taken for a sentence of the prose.
    ==========  ===============================================================
    """


def test_prose_is_kept_and_code_tables_and_names_are_not():
    assert list(paragraphs(DOCSTRING)) == [
        "Summary of what the function does, which is the sentence that a reader of it needs.",
        "The second paragraph goes on over two lines and uses numpy.ndarray, code and a link in it.",
        "Example of what is left out, because it is the opening of a block that is code:",
        "The number of elements in the array, where all of them are of the same type.",
        "The value to use in place of it when there is none in the table.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Too short to be a sentence.",
        "x = np.zeros((3, 4)) + np.ones((3, 4)) * np.arange(12).reshape(3, 4) - 1.",
        "lower case at its start, as the middle of a sentence that was cut in two has it.",
        "A sentence in the text that has no end because it was cut off in the middle of",
        r"The formula \frac{a}{b} is a part of the sentence and that is why it is not prose.",
        "Dette er en norsk setning som er lang nok, men som ikke er skrevet engelsk.",
    ],
)
def test_what_is_not_english_prose(text):
    assert not is_prose(text)


@pytest.fixture(scope="module")
def source():
    return open_source(SourceConfig())


def test_shards_are_many_and_of_similar_size(source):
    sizes = [sum(1 for _ in source.read(shard)) for shard in (0, len(source.shards) - 1)]
    assert len(source.shards) == 32
    assert min(sizes) > 20 and abs(sizes[0] - sizes[1]) <= 1


def test_restart_gives_the_same_tail(source):
    records = list(source.read(3))
    assert [record.number for record in records] == list(range(len(records)))
    for start in (1, len(records) // 2, len(records) - 1, len(records), len(records) + 1):
        assert list(source.read(3, start)) == records[start:]


def test_documents_are_lines_of_prose_and_drops_have_reasons(source):
    records = list(source.read(5))
    documents = [record.text for record in records if not record.dropped]
    assert {record.dropped for record in records} <= {"", "no prose"}
    assert len(documents) > 15 and all(is_prose(line) for text in documents for line in text.split("\n"))
    assert all(len(set(text.split("\n"))) == len(text.split("\n")) for text in documents)


def test_short_documents_are_dropped_and_filters_on_metadata_refused(source):
    strict = open_source(SourceConfig(filters=FilterConfig(min_chars=10**9)))
    assert {record.dropped for record in strict.read(0)} == {"min_chars", "no prose"}
    assert strict.fingerprint() != source.fingerprint() == open_source(SourceConfig()).fingerprint()
    with pytest.raises(UserError, match="source=pydoc has no such metadata"):
        open_source(SourceConfig(filters=FilterConfig(min_harmful_pp=1.0)))


def test_nothing_that_is_read_is_imported():
    code = (
        "import sys; from data.config import SourceConfig; from data.sources import open_source\n"
        "assert next(open_source(SourceConfig()).read(0)).number == 0\n"
        "assert not {'jax', 'numpy', 'keras', 'scipy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60)


def test_a_module_is_parsed_once_in_a_process(monkeypatch):
    source = open_source(SourceConfig(source="pydoc"))
    first = [record.text for record in source.read(3)]
    monkeypatch.setattr(pydoc, "_prose", None)
    assert [record.text for record in open_source(SourceConfig(source="pydoc")).read(3)] == first
    assert any(first)
