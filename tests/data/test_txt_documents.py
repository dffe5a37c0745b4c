"""A .txt file that does not look like what is configured is pointed out, and read as configured all the same."""

import pytest

from data.config import SourceConfig
from data.sources import open_source

PARAGRAPHS = "first line\nsecond line\nthird line\n\n" * 5
ALONE = "a line\n" * 25


@pytest.mark.parametrize(
    ("text", "chosen", "hint"),
    [
        (PARAGRAPHS, "lines",
         "its first 20 lines are 5 paragraphs of 3.0 lines with blank lines between them, but each line is taken for a "
         "document; if a paragraph is one, set config.data.txt_documents=blank_line"),
        (PARAGRAPHS, "blank_line", ""),
        (PARAGRAPHS.replace("\n", "\r"), "blank_line", ""),
        (ALONE, "lines", ""),
        (ALONE, "blank_line",
         "its first 25 lines have no blank line between them, so that all are one document; if each line is one, set "
         "config.data.txt_documents=lines"),
        ("a paragraph on one line\n\n" * 20, "lines", ""),
        ("= title =\n\n\n" * 20, "blank_line", ""),
        ("poem\n" * 10, "blank_line", ""),
    ],
)  # fmt: skip
def test_a_choice_that_a_file_speaks_against_is_said_once_and_done(tmp_path, caplog, text, chosen, hint):
    (tmp_path / "a.jsonl").write_text('{"text": "en"}\n')
    (tmp_path / "b.txt").write_text(text)
    for _ in range(2):
        source = open_source(SourceConfig(source="files", path=f"{tmp_path}/*", txt_documents=chosen))
    assert caplog.messages == ([f"{tmp_path}/b.txt: {hint}"] if hint else [])
    lines = text.replace("\r", "\n")
    documents = lines.split("\n\n") if chosen == "blank_line" else lines.split("\n")
    kept = [record.text for record in source.read(1) if not record.dropped]
    assert kept == [found for part in documents if (found := part.strip())]
