"""What is wrong is named as the user sets it: `config.model.hidden_size`, never `model.hidden_size`."""

import ast
import re
from pathlib import Path

from base.command_line import describe
from pretrain.config import PretrainConfig

ROOT = Path(__file__).parents[1]
FIELDS = [line.split("=", 1)[0] for line in describe(PretrainConfig)]
IN_GROUPS = [field.removeprefix("config.") for field in FIELDS if field.count(".") > 1]
BARE = re.compile(r"(?<![\w.])(" + "|".join(map(re.escape, IN_GROUPS)) + r")\b")


def bare_names(tree: ast.AST) -> list[str]:
    """Fields in the texts of a module's UserErrors that lack their `config.`."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    errors = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "UserError"]
    texts = [
        part.value
        for error in errors
        for part in ast.walk(error)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    return [match[1] for text in texts for match in BARE.finditer(text)]


def test_a_bare_name_is_noticed():
    assert bare_names(ast.parse("raise UserError(f'set model.hidden_size={x}, config.seed')")) == [
        "model.hidden_size"
    ]
    assert bare_names(ast.parse("raise UserError('set config.model.hidden_size')")) == []


def test_errors_name_fields_as_they_are_set():
    files = [path for package in ("data", "tokenizer", "pretrain") for path in (ROOT / package).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): bare_names(ast.parse(path.read_text())) for path in files}
    assert {path: names for path, names in found.items() if names} == {}
