"""A classifier as functions of params: populations, depths, its head's start, types, its description."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune.classifier.network import Classifier
from finetune.classifier.pretrained import load_encoder_for_classification
from pretrain.config import MeshConfig
from pretrain.devices.mesh import RULES, make_mesh
from pretrain.models.encoder import build_encoder
from tests.finetune.reference_models import SIZES, pairs_of_texts, random_model

LABELS = ("no", "maybe", "yes")
NETWORKS = ("roberta", "bert", "distilbert", "electra", "modernbert")
"""Those that differ; XLM-R and CamemBERT are RoBERTa's."""


@pytest.fixture(scope="module", params=NETWORKS)
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    random_model(request.param, folder)
    return load_encoder_for_classification(str(folder), LABELS)


def _members(classifier: Classifier, params):
    """Three models of one encoder, each with a head of its own."""
    heads = jax.vmap(classifier.init_head)(jax.random.split(jax.random.key(1), 3))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf, 1.1 * leaf]), params)
    return {**stacked, "head": heads}


@pytest.mark.parametrize("case", ["roberta", "modernbert"])
def test_every_member_of_a_population_gives_what_it_gives_alone(case: str, tmp_path):
    random_model(case, tmp_path, num_hidden_layers=2, classifier_dropout=0.3)
    start = load_encoder_for_classification(str(tmp_path), LABELS)
    classifier, members = start.classifier, _members(start.classifier, start.params)
    batch = pairs_of_texts(classifier.token_types, padded=True)
    keys = jax.random.split(jax.random.key(5), 3)

    def logits(params, key):
        return classifier.logits(params, **batch, dropout_key=key)

    together = jax.jit(jax.vmap(logits))(members, keys)
    one = jax.jit(logits)
    alone = [one(*jax.tree.map(lambda leaf, i=i: leaf[i], (members, keys))) for i in range(3)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-5, atol=2e-5)
    assert np.abs(together[0] - together[1]).min() > 0


@pytest.mark.parametrize("fields", [{}, {"num_hidden_layers": 1}, {"remat": "full"}], ids=str)
def test_the_first_tokens_alone_are_what_they_are_among_all(start, fields: dict[str, object]):
    encoder, params = start.classifier.encoder, start.params
    if "num_hidden_layers" in fields:
        if (own := encoder.config.own) is not None:
            fields = fields | {"own": dataclasses.replace(own, layer_types=own.layer_types[:1])}
        params = params | {"layers": jax.tree.map(lambda leaf: leaf[:1], params["layers"])}
    encoder = build_encoder(dataclasses.replace(encoder.config, **fields))
    batch = pairs_of_texts(encoder.config.type_vocab_size, padded=True)

    def hidden(params, first):
        found = jnp.sin(encoder.encode(params, **batch, first=first)[:, :2])
        return found.sum(), found

    @jax.jit
    def both(params):
        return [
            jax.grad(lambda params, n=first: hidden(params, n), has_aux=True)(params) for first in (2, None)
        ]

    (mine, few), (whole, all_tokens) = both(params)
    np.testing.assert_allclose(few, all_tokens, rtol=0, atol=2e-6)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5), mine, whole)


def test_every_array_has_logical_axes_a_decision_on_decay_and_a_depth(start):
    classifier = start.classifier
    shapes, axes = classifier.shapes(), classifier.logical_axes()
    assert jax.tree.map(lambda leaf: leaf.shape, shapes) == jax.tree.map(np.shape, start.params)
    leaves = jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    for shape, names in zip(jax.tree.leaves(shapes), leaves, strict=True):
        assert len(names) == len(shape.shape) and {name for name in names if name} <= set(RULES)
    for path, decays in jax.tree_util.tree_leaves_with_path(classifier.decay_mask()):
        assert decays == (path[-1].key not in ("bias", "scale")), path
    L = classifier.encoder.config.num_hidden_layers
    expected = {"embeddings": [0], "layers": list(range(1, L + 1)), "final": [L + 1], "head": [L + 1]}
    depths = classifier.layer_depths()
    assert jax.tree.structure(depths) == jax.tree.structure(shapes)
    for path, depth in jax.tree_util.tree_leaves_with_path(depths):
        assert depth.ravel().tolist() == expected[path[0].key], path
    for depth, shape in zip(jax.tree.leaves(depths), jax.tree.leaves(shapes), strict=True):
        assert np.broadcast_shapes(depth.shape, shape.shape) == shape.shape


def test_a_fresh_head_is_drawn_as_transformers_draws_it(start, tmp_path):
    model_type = start.classifier.encoder.config.model_type
    case = model_type.replace("-", "_")
    folder = tmp_path / "wide"
    theirs = random_model(case, folder, **_wide(model_type), initializer_range=0.02)
    wide = load_encoder_for_classification(str(folder), LABELS).classifier
    heads = jax.vmap(wide.init_head)(jax.random.split(jax.random.key(0), 40))
    fresh = type(theirs)(theirs.config)
    for tensor in wide.tensors():
        if tensor.path[0] != "head":
            continue
        ours = np.asarray(heads[tensor.path[1]][tensor.path[2]])
        expected = fresh.state_dict()[tensor.name].numpy()
        if tensor.is_linear:
            deviation = ours.std() if tensor.path[1] == "out" else expected.std()
            np.testing.assert_allclose(ours.std(), deviation, rtol=0.05)
            np.testing.assert_allclose(ours.std(), expected.std(), rtol=0.15)
            assert abs(ours).max() < 6 * ours.std()
            if wide.encoder.config.own:
                assert abs(ours).max() < 2.4 * ours.std(), "drawn beyond the cut-off"
        else:
            np.testing.assert_array_equal(ours[0], expected)


def _wide(model_type: str) -> dict[str, int]:
    return {"dim": 128} if model_type == "distilbert" else {"hidden_size": 128}


def test_bfloat16_runs_close_to_float32_with_float32_logits(start, tmp_path):
    case = start.classifier.encoder.config.model_type.replace("-", "_")
    random_model(case, tmp_path, initializer_range=0.05)
    batch = pairs_of_texts(start.classifier.token_types, padded=True)
    logits = {}
    for dtype in ("float32", "bfloat16"):
        same = load_encoder_for_classification(str(tmp_path), LABELS, dtype=dtype)
        logits[dtype] = jax.jit(same.classifier.logits)(same.params, **batch)
        assert logits[dtype].dtype == jnp.float32
    np.testing.assert_allclose(logits["bfloat16"], logits["float32"], atol=0.1)
    assert np.abs(logits["bfloat16"] - logits["float32"]).max() > 0


def test_padding_changes_no_logit(start):
    classifier = start.classifier
    batch = pairs_of_texts(classifier.token_types, padded=True)
    logits = jax.jit(classifier.logits)
    longer = {name: np.pad(array, ((0, 0), (0, 4))) for name, array in batch.items()}
    np.testing.assert_allclose(
        logits(start.params, **batch), logits(start.params, **longer), rtol=1e-5, atol=2e-5
    )


def test_a_mesh_changes_no_logit(start):
    classifier = start.classifier
    batch = {
        name: np.concatenate([array, array[:1]])
        for name, array in pairs_of_texts(classifier.token_types, padded=True).items()
    }
    expected = jax.jit(classifier.logits)(start.params, **batch)
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        meshed = jax.jit(classifier.logits)(start.params, **batch)
    np.testing.assert_allclose(meshed, expected, rtol=1e-5, atol=2e-5)


def test_classifiers_of_equal_config_are_equal_and_hashable(start, tmp_path):
    case = start.classifier.encoder.config.model_type.replace("-", "_")
    random_model(case, tmp_path)
    again = load_encoder_for_classification(str(tmp_path), LABELS).classifier
    assert again == start.classifier and hash(again) == hash(start.classifier)
    assert again.encoder.config.vocab_size == SIZES["vocab_size"]
