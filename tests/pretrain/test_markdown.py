"""Markdown and YAML that read back as the names that users gave."""

import html
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from base.formatting import one_line
from pretrain.publish.markdown import code, escape, front_matter, table
from tests.hostile import NAMES

RENDERED = MarkdownIt("commonmark").enable("table")


def cells(markdown: str) -> list[str]:
    """The texts of a table's cells as a browser shows them."""
    found = re.findall(r"<t[hd]>(.*?)</t[hd]>", RENDERED.render(markdown), re.DOTALL)
    return [html.unescape(re.sub(r"</?code>", "", cell)) for cell in found]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_table_is_shown_as_it_is_written(name: str):
    shown = one_line(name)
    page = table(("a", "b"), [(escape(name), code(name)), ("after", "it")])
    assert [cell.strip() for cell in cells(page)] == ["a", "b", shown.strip(), shown.strip(), "after", "it"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_heading_is_shown_as_it_is_written(name: str):
    (text,) = re.findall(r"<h1>(.*?)</h1>", RENDERED.render(f"# {escape(name)}\n"))
    assert html.unescape(text) == one_line(name).strip()
    assert "$" not in escape(name), "the hub takes what is between two of them for mathematics"


def test_a_plain_name_is_plain_code():
    assert (
        code("no-*.txt") == "`no-*.txt`" and code("<b>") == "`<b>`" and code("a|b") == "<code>a&#124;b</code>"
    )


def test_control_characters_are_shown_as_python_writes_them():
    assert one_line("a\nb\t\x1b\u2028\ud800é猫") == r"a\nb\t\x1b\u2028\ud800é猫"


@pytest.mark.parametrize("name", NAMES)
def test_the_header_reads_back_as_what_was_written(name: str):
    values = {
        "language": ["no", name],
        "license": name,
        "tags": [name, name],
        "other": {"name": name, "value": 0.5},
    }
    header = front_matter({**values, "empty": [], "nothing": ""})
    assert yaml.safe_load(header.strip("-\n")) == values
    again = ModelCard(f"{header}\n\n# x\n", ignore_metadata_errors=False)
    assert again.data.license == name and again.text.strip() == "# x"


@pytest.mark.parametrize("name", ["1e5", "0o17", "1_000", "no", "y", "1.0", "0x1F", "12:30:00", "2026-01-01"])
def test_a_name_that_another_version_of_yaml_takes_for_a_number_is_quoted(name: str):
    assert front_matter({"license": name}) in (
        f'---\nlicense: "{name}"\n---',
        f"---\nlicense: '{name}'\n---",
        "---\nlicense: y\n---",
    )
