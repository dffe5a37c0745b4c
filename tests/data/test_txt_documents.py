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


@pytest.mark.parametrize(
    ("names", "given", "said"),
    [
        (["a.jsonl"], {"txt_documents": "blank_line"},
         ["config.data.txt_documents='blank_line' has no effect: no file of {path} is .txt; unset it"]),
        (["a.txt"], {"text_field": "body"},
         ["config.data.text_field='body' has no effect: all files of {path} are .txt; unset it"]),
        (["a.txt", "b.jsonl"], {"text_field": "body", "txt_documents": "blank_line"}, []),
        (["a.txt"], {}, []),
        (["a.jsonl"], {}, []),
    ],
)  # fmt: skip
def test_a_setting_of_a_format_that_no_file_has_is_said_once(tmp_path, caplog, names, given, said):
    for name in names:
        field = given.get("text_field", "text")
        (tmp_path / name).write_text("en\n" if name.endswith(".txt") else f'{{"{field}": "en"}}\n')
    path = f"{tmp_path}/*"
    for _ in range(2):
        open_source(SourceConfig(source="files", path=path, **given))
    assert caplog.messages == [each.format(path=path) for each in said]
