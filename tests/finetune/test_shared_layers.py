"""Layers that share their weights: the depth of a shared array, what may be frozen."""

import numpy as np
import pytest

from base.errors import UserError
from finetune.classifier.heads import head_config
from finetune.classifier.network import build_classifier
from finetune.config import ENCODER, frozen_layers
from pretrain.models.huggingface import parse_config

SIZES = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "embedding_size": 16,
    "num_hidden_layers": 6,
}


@pytest.mark.parametrize(
    ("groups", "expected"), [(1, [6]), (2, [3, 6]), (4, [2, 3, 5, 6]), (6, [1, 2, 3, 4, 5, 6])]
)
def test_a_shared_layer_has_the_depth_of_the_last_that_runs_it(groups: int, expected: list[int]):
    values = {"model_type": "albert", **SIZES, "num_hidden_groups": groups}
    config = parse_config(values, "here")
    classifier = build_classifier(config, head_config(config, values, "here"), 2)
    depths = classifier.layer_depths()
    np.testing.assert_array_equal(depths["layers"]["up"]["kernel"].ravel(), expected)
    assert classifier.shapes()["layers"]["up"]["kernel"].shape == (groups, 32, 48)
    assert (depths["embeddings"]["word"], depths["head"]["out"]["kernel"]) == (0, 7)


def test_tables_that_all_layers_read_have_the_depth_of_the_embeddings():
    values = {"model_type": "mpnet", **SIZES}
    config = parse_config(values, "here")
    classifier = build_classifier(config, head_config(config, values, "here"), 2)
    assert classifier.layer_depths()["shared"]["relative"] == 0


def test_some_of_the_layers_that_share_their_weights_cannot_be_frozen():
    assert frozen_layers(ENCODER, 6, shared=True) is None
    assert frozen_layers("", 6, shared=True) == 0
    with pytest.raises(
        UserError, match=r"config\.freeze='2' cannot part layers that share their weights: set it to enc"
    ):
        frozen_layers("2", 6, shared=True)
