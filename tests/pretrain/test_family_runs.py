"""Each family from its first step to transformers, to a filled blank and to fine-tuning; a family of one's own too."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
import transformers
from etils import epath

from finetune.train import train as finetune
from pretrain.export import export
from pretrain.fill_mask import fill_mask
from pretrain.models import build, families
from pretrain.models.families.bert.head import MaskedLMHead
from pretrain.models.families.bert.network import EncoderLayer
from pretrain.models.families.family import Family, Parts
from pretrain.models.huggingface import load_pretrained
from pretrain.models.vocabulary import with_rows
from pretrain.reports.metric_writer import read_metrics
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from tests.finetune.tiny_task import tiny_finetune, write_examples, write_model
from tests.goldens.runs import GO_ON, STEPS, assert_golden, losses
from tests.tiny import on_one_device, tiny_config, write_corpus
from tokenizer.load import load as load_tokenizer

OWN = {
    "bert": {"type_vocab_size": 2},
    "electra": {"type_vocab_size": 2, "embedding_size": 16},
    "albert": {"type_vocab_size": 2, "embedding_size": 16},
    "nomic_bert": {"type_vocab_size": 2},
    "modernbert": {"num_hidden_layers": 4, "local_attention": 8, "position_init": "normal"},
}
"""What a small network of a family has besides its size."""


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with on_one_device("pretrain.job", "finetune.population.state"):
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, a tokenizer and examples with labels."""
    folder = tmp_path_factory.mktemp("place")
    write_corpus(folder / "text.txt")
    write_model(folder)
    write_examples(folder / "train.csv", 24)
    write_examples(folder / "validation.csv", 8, seed=1)
    return folder


def pretrained(family: str, place: Path, workdir: Path):
    """A run of three steps; returns its losses."""
    config = tiny_config(
        place / "text.txt",
        steps=3,
        model={"family": family, **OWN.get(family, {})},
        tokenizer={"path": str(place / "model"), "vocab_size": 50265, "min_frequency": 2},
    )
    train(config, epath.Path(workdir))
    lines = read_metrics(epath.Path(workdir) / "metrics.jsonl")
    return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.mark.parametrize("family", families.names())
def test_a_family_is_pretrained_exported_filled_in_and_fine_tuned(place: Path, tmp_path: Path, family: str):
    if family in GO_ON:
        found = losses("mlm", family, tmp_path)
        assert_golden("mlm", family, found)
        lost, steps, tokens = found["train/loss"], STEPS, 300
    else:
        lost, steps, tokens = pretrained(family, place, tmp_path / "run"), 3, 320
    assert len(lost) == steps and abs(lost[0] - math.log(tokens)) < 1 and lost[-1] < lost[0]
    export(epath.Path(tmp_path / "run"), epath.Path(tmp_path / "model"))
    loaded, report = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert {name: found for name, found in report.items() if found} == {}
    assert loaded.config.model_type == family
    _assert_filled_alike(tmp_path / "model", loaded)
    outcome = finetune(
        tiny_finetune(place, init_from=str(tmp_path / "run"), steps=2),
        epath.Path(tmp_path / "fine"),
    )
    assert outcome.step == 2


def _assert_filled_alike(folder: Path, loaded: transformers.PreTrainedModel) -> None:
    """Assert that a blank is filled by our network as by transformers'."""
    config, params = load_pretrained(folder)
    text = "the old <mask> sees the river"
    ((ours,),) = fill_mask(build(config), params, load_tokenizer(str(folder)), [text], top=5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.pipeline("fill-mask", model=loaded, tokenizer=tokenizer, top_k=5)(text)
    found = [candidate.probability for candidate in ours]
    np.testing.assert_allclose(found, [each["score"] for each in theirs], rtol=1e-4)


# ---- a family of one's own ---------------------------------------------------------------------------------------


class ToyLayer(EncoderLayer):
    """BERT's layer with all of its dropout."""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Family:
    """A family that transformers does not have, with a name of its own for one field and tensors of its own names."""
    bert = families.get("bert")
    family = dataclasses.replace(
        bert,
        classes="Toy",
        base="toy",
        parts=Parts(bert.parts.embeddings, ToyLayer),
        head=MaskedLMHead,
        renamed={"hidden_size": "width"},
        modules={ours: f"net.{theirs}" for ours, theirs in bert.modules.items()},
        classifier=dataclasses.replace(
            bert.classifier, names={"head/dense": "top.dense", "head/out": "top.out"}
        ),
    )
    monkeypatch.setattr(families, "_families", dict(families._families))
    families.register("toy", family)
    return family


def test_a_family_that_is_registered_is_pretrained_exported_read_again_and_fine_tuned(
    toy: Family, place: Path, tmp_path: Path
):
    lost = pretrained("toy", place, tmp_path / "run")
    assert lost[-1] < lost[0]
    export(epath.Path(tmp_path / "run"), epath.Path(tmp_path / "model"))
    written = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (written["model_type"], written["width"]) == ("toy", 32)
    assert written["architectures"] == ["ToyForMaskedLM"] and "hidden_size" not in written
    config, params = load_pretrained(tmp_path / "model")
    assert config.family is toy
    trained = restore_params(epath.Path(tmp_path / "run"), "last")[0]
    jax.tree.map(np.testing.assert_array_equal, params, with_rows(config, trained, config.vocab_size))
    outcome = finetune(
        tiny_finetune(place, init_from=str(tmp_path / "model"), steps=2),
        epath.Path(tmp_path / "fine"),
    )
    assert outcome.step == 2


def test_a_model_type_is_registered_once(toy: Family):
    with pytest.raises(ValueError, match="there is a family of model_type 'toy'"):
        families.register("toy", toy)
    with pytest.raises(ValueError, match="there is a family of model_type 'bert'"):
        families.register("bert", toy)
