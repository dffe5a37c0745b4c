"""config.freeze: what is frozen stays equal to the bit, and the rest is trained."""

import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from base.errors import UserError
from finetune.config import frozen_layers
from finetune.job import assemble
from finetune.train import train
from tests.finetune.tiny_task import tiny_finetune, write_examples, write_model


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("freeze")
    write_model(folder, layers=2)
    write_examples(folder / "train.csv", 50)
    write_examples(folder / "validation.csv", 21, seed=1)
    return tiny_finetune(folder, steps=2, optimizer={"weight_decay": 0.1}, eval={"restore_best": False})


@pytest.mark.parametrize(("freeze", "moving"), [("encoder", 0), ("1", 1)])
def test_frozen_parts_stay_and_the_others_move(config, freeze: str, moving: int, tmp_path, caplog):
    config = dataclasses.replace(config, freeze=freeze)
    before = assemble(config).params
    with caplog.at_level("INFO"):
        outcome = train(config, epath.Path(tmp_path / "run"))
    after = jax.tree.map(lambda array: np.asarray(array[0]), outcome.params)
    count, head, layers = (
        sum(leaf.size for leaf in jax.tree.leaves(part))
        for part in (before, before["head"], before["layers"])
    )
    trained = head + layers * moving // 2
    assert f"config.freeze={freeze}: {trained:,} of {count:,} parameters are trained" in caplog.text
    moved = jax.tree.map(
        lambda a, b: np.any(a != b, axis=tuple(range(1, a.ndim))), before["layers"], after["layers"]
    )
    layers = np.stack(jax.tree.leaves(moved))  # [arrays, L]
    assert not layers[:, : 2 - moving].any()
    assert layers[:, 2 - moving :].all() == bool(moving) or moving == 0
    jax.tree.map(np.testing.assert_array_equal, before["embeddings"], after["embeddings"])
    head = jax.tree.map(lambda a, b: bool(np.any(a != b)), before["head"], after["head"])
    assert all(jax.tree.leaves(head))


def test_what_can_be_frozen():
    assert (frozen_layers("", 4), frozen_layers("encoder", 4), frozen_layers("4", 4)) == (0, None, 4)
    for wrong in ("5", "0", "embeddings", "-1"):
        with pytest.raises(
            UserError, match=f"config.freeze='{wrong}' should be encoder, or a number of layers from 1"
        ):
            frozen_layers(wrong, 4)
