"""Rows of padding in the vocabulary: they change no loss, learn nothing, are never drawn, and no export has them."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from etils import epath

from base import schema
from base.errors import UserError
from finetune.classifier.pretrained import load_encoder_for_classification
from pretrain.config import MeshConfig, ModelConfig
from pretrain.export import export
from pretrain.fill_mask import main as fill_mask
from pretrain.models import EncoderConfig, build, build_encoder
from pretrain.models.huggingface import load_pretrained, parse_config
from pretrain.models.tensor_names import from_state_dict, to_state_dict
from pretrain.models.vocabulary import with_rows
from pretrain.objective.masking import MaskingTables
from pretrain.runtime.saved_params import restore_params
from pretrain.train import train
from tests.pretrain.test_mesh import encoder, run
from tests.tiny import on_one_device, tiny_config, write_corpus

V, ROWS = 300, 384
CASES = {
    "roberta": {},
    "roberta_untied": {"tie_word_embeddings": False},
    "bert": {"model_type": "bert", "pad_token_id": 0},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt")


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Runs are on one device; those on several are not made by `train`."""
    with on_one_device():
        yield


@pytest.fixture(scope="module")
def runs(corpus: Path, one_device: None, tmp_path_factory: pytest.TempPathFactory) -> dict[int, epath.Path]:
    """Runs of 6 steps that differ in their rows alone: their folders by `vocab_multiple`."""
    folder = epath.Path(tmp_path_factory.mktemp("runs"))
    for multiple in (1, 128):
        train(_config(corpus, multiple, eval={"every": 3}), folder / str(multiple))
    return {multiple: folder / str(multiple) for multiple in (1, 128)}


@pytest.fixture(scope="module")
def exports(runs: dict[int, epath.Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, epath.Path]:
    """The runs' exports."""
    folder = epath.Path(tmp_path_factory.mktemp("exports"))
    for multiple, workdir in runs.items():
        export(workdir, folder / str(multiple))
    return {multiple: folder / str(multiple) for multiple in runs}


def _config(corpus: Path, multiple: int, **changes):
    fixed = {"steps": 6, "schedule": {"name": "constant"}, "matmul_precision": "highest"}
    return tiny_config(corpus, model={**_MODEL, "vocab_multiple": multiple}, **{**fixed, **changes})


_MODEL = schema.as_dict(tiny_config(Path("text.txt")).model)


def _padded(case: str, multiple: int = 128) -> EncoderConfig:
    return encoder(vocab_size=V, vocab_multiple=multiple, **CASES[case])


def _vocabulary(params) -> dict[str, np.ndarray]:
    """The arrays that have a row for each token, by path."""
    arrays = {"word": params["embeddings"]["word"], "bias": params["head"]["bias"]}
    arrays |= {"decoder": params["head"]["decoder"]} if "decoder" in params["head"] else {}
    return {name: np.asarray(array) for name, array in arrays.items()}


def test_rows_are_rounded_up_to_a_multiple():
    assert [_padded("roberta", each).vocab_rows for each in (1, 7, 100, 128)] == [300, 301, 300, 384]
    with pytest.raises(UserError, match=r"vocab_multiple=0 should be 1 \(rounds nothing\) or more"):
        _padded("roberta", 0)


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_network_is_the_one_without_padding_and_zeros(case: str):
    key = jax.random.key(0)
    params, without = (jax.jit(build(_padded(case, each)).init)(key) for each in (128, 1))
    for name, array in _vocabulary(params).items():
        assert len(array) == ROWS and not array[V:].any(), name
    # The same draws; two programs may round what they make of them in another way.
    jax.tree.map(np.testing.assert_array_max_ulp, with_rows(_padded(case), params, V), without)


def test_modernberts_fresh_embedding_has_zeros_behind_it():
    values = {"model_type": "modernbert", "vocab_size": V, "hidden_size": 32, "num_attention_heads": 4}
    config = parse_config(values | {"num_hidden_layers": 1, "pad_token_id": 0}, "here")
    padded = dataclasses.replace(config, vocab_multiple=128)
    word, without = (
        np.asarray(jax.jit(build_encoder(each).init)(jax.random.key(0))["embeddings"]["word"])
        for each in (padded, config)
    )
    assert word.shape == (ROWS, 32) and not word[V:].any()
    np.testing.assert_array_equal(word[:V], without)


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_without_padding_and_padding_has_no_gradient(case: str):
    padded, real = build(_padded(case)), build(_padded(case, 1))
    # Padding that is not 0, as no run has it: it must count for nothing all the same.
    params = jax.tree.map(lambda leaf: leaf + 0.01, jax.jit(padded.init)(jax.random.key(0)))
    draw = np.random.default_rng(0)
    tokens, targets = (draw.integers(5, V, (4, 16)).astype(np.int32) for _ in range(2))
    ones, positions = np.ones((4, 16), np.int32), np.tile(np.arange(16, dtype=np.int32), (4, 1))

    def value_and_gradients(model, params):
        def loss(params):
            logits = model.predict(params, model.encode(params, tokens, ones, positions))
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1))

        with jax.default_matmul_precision("highest"):
            return jax.jit(jax.value_and_grad(loss))(params)

    loss, gradients = value_and_gradients(padded, params)
    expected, without = value_and_gradients(real, with_rows(_padded(case), params, V))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for name, gradient in _vocabulary(gradients).items():
        assert gradient[:V].any() and not gradient[V:].any(), name
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7),
        with_rows(_padded(case), gradients, V),
        without,
    )


def test_padding_is_never_predicted():
    model = build(_padded("roberta"))
    params = jax.jit(model.init)(jax.random.key(0))
    params["embeddings"]["word"] += 1.0
    params["head"]["bias"] = params["head"]["bias"].at[V:].set(100.0)
    logits = np.asarray(model.predict(params, jnp.ones((2, 3, 32))))
    assert logits.shape == (2, 3, ROWS)
    assert (logits[..., V:] == np.finfo(np.float32).min).all() and logits.argmax(-1).max() < V


def test_padding_is_never_drawn(runs: dict[int, epath.Path], corpus: Path):
    from tokenizer.load import load

    tokenizer = load(str(runs[128] / "tokenizer"))
    assert MaskingTables.build(_config(corpus, 128).masking, tokenizer).vocab_size == V


def test_a_run_has_the_losses_of_one_without_padding(runs: dict[int, epath.Path]):
    def losses(workdir: epath.Path) -> dict[str, list[float]]:
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        names = ("train/loss", "train/accuracy", "train/grad_norm", "eval/loss")
        return {name: [line[name] for line in lines if name in line] for name in names}

    with_padding, without = losses(runs[128]), losses(runs[1])
    assert len(with_padding["train/loss"]) == 6 and len(with_padding["eval/loss"]) == 2
    for name, values in with_padding.items():
        np.testing.assert_allclose(values, without[name], rtol=1e-6, err_msg=name)


def test_padding_stays_0_in_training(runs: dict[int, epath.Path]):
    _assert_rows_of_0(runs[128])


@pytest.mark.parametrize("optimizer", ["lamb", "muon", "adafactor"])
def test_padding_stays_0_in_training_with_another_optimizer(corpus: Path, tmp_path: Path, optimizer: str):
    train(_config(corpus, 128, steps=3, optimizer={"name": optimizer}), epath.Path(tmp_path / "run"))
    _assert_rows_of_0(epath.Path(tmp_path / "run"))


def _assert_rows_of_0(workdir: epath.Path) -> None:
    for name, array in _vocabulary(restore_params(workdir)[0]).items():
        assert array[:V].any() and len(array) == ROWS and not array[V:].any(), name


@pytest.mark.parametrize(
    "mesh", [MeshConfig(data=4, tensor=2), MeshConfig(data=1, fsdp=4, tensor=2)], ids=str
)
def test_an_odd_vocabulary_is_split_over_the_tensor_axis_and_fsdp(mesh: MeshConfig):
    odd = {"vocab_size": 97, "tie_word_embeddings": False}
    losses, state, _ = run(mesh, 8, steps=2, vocab_multiple=128, **odd)
    for name, leaf in (
        ("word", state.params["embeddings"]["word"]),
        ("decoder", state.params["head"]["decoder"]),
        ("bias", state.params["head"]["bias"]),
    ):
        rows = 128 // (mesh.tensor * mesh.fsdp)
        assert leaf.shape[0] == 128 and leaf.addressable_shards[0].data.shape[0] == rows, name
    expected, whole, _ = run(MeshConfig(data=1), 1, steps=2, **odd)
    assert whole.params["embeddings"]["word"].shape[0] == 97
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_parameters_are_counted_without_padding():
    for case in CASES:
        assert build(_padded(case)).count() == build(_padded(case, 1)).count()
    assert build(_padded("roberta")).sizes()["embeddings"]["word"] == V * 32


@pytest.mark.parametrize("case", CASES)
def test_a_state_dict_has_the_tokens_alone_and_is_padded_when_it_is_read(case: str):
    config = _padded(case)
    params = jax.device_get(jax.jit(build(config).init)(jax.random.key(1)))
    state = to_state_dict(config, params)
    assert {array.shape[0] for name, array in state.items() if array.shape[0] in (V, ROWS)} == {V}
    jax.tree.map(np.testing.assert_array_equal, from_state_dict(config, state, "here"), params)
    jax.tree.map(
        np.testing.assert_array_equal,
        from_state_dict(_padded(case, 1), state, "here"),
        with_rows(config, params, V),
    )


def test_transformers_sees_what_it_saw_without_padding(
    runs: dict[int, epath.Path], exports: dict[int, epath.Path]
):
    shapes, configs = [], []
    for out in exports.values():
        model = transformers.AutoModelForMaskedLM.from_pretrained(out)
        assert model.config.vocab_size == V == model.get_input_embeddings().weight.shape[0]
        shapes.append({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
        configs.append(json.loads((out / "config.json").read_text()))
        assert "a vocabulary of 300 tokens" in (out / "README.md").read_text()
    assert shapes[0] == shapes[1] and configs[0] == configs[1]
    params, read = restore_params(runs[128])[0], load_pretrained(exports[128])[1]
    jax.tree.map(np.testing.assert_array_equal, with_rows(_padded("roberta"), params, V), read)


def test_a_run_goes_on_with_its_rows_and_they_cannot_change(
    runs: dict[int, epath.Path], corpus: Path, tmp_path: Path
):
    workdir = epath.Path(tmp_path / "run")
    shutil.copytree(runs[128], workdir)
    outcome = train(_config(corpus, 128, steps=7), workdir, accept_changes=True)
    assert outcome.step == 7 and outcome.state.params["embeddings"]["word"].shape == (ROWS, 32)
    with pytest.raises(UserError, match=r"cannot change: config\.model\.vocab_multiple was 128, is 64"):
        train(_config(corpus, 64, steps=7), workdir, accept_changes=True)


def test_a_run_of_before_the_field_has_no_padding():
    assert schema.completed({}, ModelConfig)["vocab_multiple"] == 1
    assert ModelConfig().vocab_multiple == 128


@pytest.mark.parametrize("multiple", [1, 128])
@pytest.mark.parametrize("kind", ["workdir", "export"])
def test_a_run_that_starts_from_a_model_has_rows_of_its_own(
    runs: dict[int, epath.Path],
    exports: dict[int, epath.Path],
    corpus: Path,
    tmp_path: Path,
    kind: str,
    multiple: int,
):
    start = (exports if kind == "export" else runs)[128]
    config = _config(
        corpus,
        multiple,
        steps=1,
        schedule={"warmup_steps": 0},
        init_from=str(start),
        tokenizer={"vocab_size": 50265},
    )
    config = dataclasses.replace(
        config, tokenizer=dataclasses.replace(config.tokenizer, min_frequency=2), optimizer=_SLOW
    )
    outcome = train(config, epath.Path(tmp_path / "run"))
    began, params = restore_params(runs[128])[0], restore_params(epath.Path(tmp_path / "run"))[0]
    assert len(params["embeddings"]["word"]) == (V if multiple == 1 else ROWS)
    for name, array in _vocabulary(params).items():
        np.testing.assert_allclose(array[:V], _vocabulary(began)[name][:V], rtol=0, atol=1e-5)
        assert not array[V:].any()
    assert outcome.job.given.model.vocab_size == V


_SLOW = dataclasses.replace(tiny_config(Path("text.txt")).optimizer, learning_rate=1e-6)


def test_a_network_of_a_config_file_has_padding_too(
    exports: dict[int, epath.Path], corpus: Path, tmp_path: Path
):
    config = tiny_config(
        corpus,
        steps=1,
        schedule={"warmup_steps": 0},
        model={**schema.as_dict(ModelConfig()), "config_file": str(exports[1])},
        tokenizer={"path": str(exports[1]), "vocab_size": 50265, "min_frequency": 2},
    )
    outcome = train(config, epath.Path(tmp_path / "run"))
    assert outcome.state.params["embeddings"]["word"].shape == (ROWS, 32)


def test_a_blank_is_filled_and_a_classifier_starts_from_a_padded_run(
    runs: dict[int, epath.Path], exports: dict[int, epath.Path], capsys: pytest.CaptureFixture[str]
):
    capsys.readouterr()
    printed = []
    for source in (f"--workdir={runs[128]}", f"--model={exports[128]}"):
        assert fill_mask(["fill_mask", source, "the <mask> sees a dog"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "%" in printed[0]
    start = load_encoder_for_classification(str(runs[128]), ("no", "yes"))
    assert start.params["embeddings"]["word"].shape == (V, 32) == load_shape(runs[128])


def load_shape(workdir: epath.Path) -> tuple[int, int]:
    """Tokens and width by the workdir's model.json."""
    config = parse_config(json.loads((workdir / "model.json").read_text()), "here")
    return config.vocab_size, config.hidden_size


def test_a_model_that_does_not_fit_is_refused_by_its_own_rows(
    exports: dict[int, epath.Path], corpus: Path, tmp_path: Path
):
    """Two vocabularies that are rounded to the same rows are two all the same."""
    file = tmp_path / "larger.json"
    values = json.loads((exports[1] / "config.json").read_text()) | {"vocab_size": 310}
    file.write_text(json.dumps(values))
    config = tiny_config(
        corpus,
        init_from=str(exports[1]),
        model={**schema.as_dict(ModelConfig()), "config_file": str(file)},
        tokenizer={"vocab_size": 50265, "min_frequency": 2},
    )
    with pytest.raises(UserError, match=r"has shape \(300, 32\) there and \(384, 32\) here"):
        train(config, epath.Path(tmp_path / "run"))
    assert load_pretrained(exports[1])[0].vocab_size == 300
