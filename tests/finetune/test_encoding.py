"""Texts and pairs become the ids, token types and lengths that transformers' tokenizers give them."""

from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, processors

from base.errors import UserError
from data.labelled.examples import Examples
from finetune.texts.encoding import PairEncoder
from tests.finetune.tiny_task import write_model
from tokenizer.load import load

FIRST = [
    "the cat sees a dog",
    "a house",
    "",
    "the old horse follows the road and the river slowly today " * 3,
]
SECOND = ["never", "the great river loves the small child because the bird leaves", "near", "under over " * 9]


def examples(pairs):
    return Examples(FIRST, SECOND if pairs else None, None, list(range(4)), "test", False)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """A WordPiece tokenizer with BERT's post-processor, in transformers' layout."""
    folder = tmp_path_factory.mktemp("bert")
    words = sorted({word for text in (*FIRST, *SECOND) for word in text.split()})
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["roberta", "bert"])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("max_length", [12, 60])
def test_rows_are_transformers(request, family, pairs, max_length):
    folder = request.getfixturevalue(family)
    types = 2 if family == "bert" else 1
    encoded = PairEncoder(load(str(folder)), max_length=max_length, token_types=types)(examples(pairs))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)(
        FIRST,
        SECOND if pairs else None,
        truncation=True,
        max_length=max_length,
        padding=True,
        return_tensors="np",
    )
    np.testing.assert_array_equal(encoded.tokens, theirs["input_ids"])
    np.testing.assert_array_equal(encoded.lengths, theirs["attention_mask"].sum(1))
    if types > 1:
        np.testing.assert_array_equal(encoded.token_types, theirs["token_type_ids"])
    else:
        assert not encoded.token_types.any()


def test_cut_examples_are_counted(roberta):
    encoder = PairEncoder(load(str(roberta)), max_length=12, token_types=1)
    found = encoder(examples(True))
    whole = PairEncoder(load(str(roberta)), max_length=64, token_types=1)(examples(True))
    assert found.truncated == int((whole.lengths > 12).sum()) > 0


def test_a_special_token_that_is_written_in_a_text_is_that_token(roberta):
    encoder = PairEncoder(load(str(roberta)), max_length=32, token_types=1)
    (encoding,) = encoder.encode(["a </s> b <mask>"], None)
    assert [list(encoding.ids).count(token) for token in (2, 4)] == [2, 1]


def test_a_lone_surrogate_is_replaced(roberta):
    encoder = PairEncoder(load(str(roberta)), max_length=32, token_types=1)
    (bad,), (good,) = encoder.encode(["cat \ud800"], ["dog"]), encoder.encode(["cat \ufffd"], ["dog"])
    assert bad.ids == good.ids


def test_a_tokenizer_without_post_processor_is_refused(roberta):
    loaded = load(str(roberta))
    bare = tokenizers.Tokenizer.from_str(loaded.tokenizer.to_str())
    bare.post_processor = processors.Sequence([])
    loaded = type(loaded)(bare, loaded.special, loaded.files)
    with pytest.raises(UserError, match="no post-processor"):
        PairEncoder(loaded, max_length=32, token_types=1)


def test_a_tokenizer_of_single_texts_encodes_them_and_refuses_pairs(roberta):
    loaded = load(str(roberta))
    single = tokenizers.Tokenizer.from_str(loaded.tokenizer.to_str())
    special = [("<s>", loaded.special.cls), ("</s>", loaded.special.sep)]
    single.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    encoder = PairEncoder(type(loaded)(single, loaded.special, loaded.files), max_length=32, token_types=1)
    (encoding,) = encoder.encode(["cat"], None)
    assert (encoding.ids[0], encoding.ids[-1]) == (loaded.special.cls, loaded.special.sep)
    with pytest.raises(UserError, match="special tokens around a pair of texts"):
        encoder.encode(["cat"], ["dog"])
