"""Fields that name a place on a machine are left out of what is published; texts and ids stay."""

import json

from base.private_paths import without_places
from tokenizer.tokenizer_files import CONFIG, publishable

VALUES = {
    "u": "https://h/secret",
    "t": "~acme/x",
    "p": "/data/acme",
    "_name_or_path": "acme/x",
    "vocab_file": "acme/vocab.txt",
    "cls_token": "/",
    "chat_template": "see https://h",
    "model_type": "bert",
    "size": 3,
}
KEPT = ("cls_token", "chat_template", "model_type", "size")


def test_places_are_left_out_of_a_models_and_a_tokenizers_files_alike():
    kept = {name: VALUES[name] for name in KEPT}
    assert without_places(VALUES) == kept
    assert json.loads(publishable({CONFIG: json.dumps(VALUES).encode()})[CONFIG]) == kept


def test_a_file_that_holds_no_object_is_let_be():
    for content in (b"[]", b"{", b"3"):
        assert publishable({CONFIG: content}) == {CONFIG: content}
