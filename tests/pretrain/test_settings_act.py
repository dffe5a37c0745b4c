"""Every field of a pretraining config acts where it is set, and is refused in one line where it could not."""

import dataclasses
import functools
import hashlib
import json
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from base.errors import UserError
from base.suggestions import Names
from data.batches import open_batches
from data.corpus import training_documents
from data.sources import open_source
from data.special_tokens import SpecialTokens
from pretrain.config import PhaseConfig, PretrainConfig, SpikeConfig
from pretrain.devices.mesh import mesh_sizes
from pretrain.job import assemble
from pretrain.models import build as build_model
from pretrain.models.huggingface import encoder_config
from pretrain.objective.masking import MaskingTables, predictions_per_row
from pretrain.optim.batch_scaling import scaled_by_batch
from pretrain.optim.learning_rates import schedule_of_phases
from pretrain.optim.optimizers import make_optimizer
from pretrain.optim.train_state import dropout_generator
from pretrain.phases import resolve_phases
from pretrain.train import train
from tests.finetune.tiny_task import write_model
from tests.settings import CHANGING_OVER_A_RUN, not_mentioned, placed, with_field
from tests.tiny import on_one_device, tiny_config, write_corpus
from tokenizer.load import load
from tokenizer.train import train_tokenizer

SPECIAL = SpecialTokens(0, 2, 1, 4, 3)
ADAMS = ("learning_rate", "weight_decay", "beta1", "beta2", "eps")
MUONS = ("muon_momentum", "normuon_beta2", "matrix_weight_decay")
NAMED = {"orthogonal_dtype": "bfloat16", "orthogonal_steps": "newton_schulz", "orthogonal_per_head": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with text in several forms, and a model."""
    folder = tmp_path_factory.mktemp("place")
    write_corpus(folder / "text.txt")
    write_corpus(folder / "other.txt", seed=1)
    lines = (folder / "text.txt").read_text().splitlines()
    (folder / "blocks.txt").write_text("\n".join(f"{line}\n" * (i % 2 + 1) for i, line in enumerate(lines)))
    rows = [{"text": line, "body": line.upper()} for line in lines]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    write_model(folder)
    return folder


# ---- what is seen of a config ------------------------------------------------------------------------------------


def network(config, place):
    encoder = encoder_config(config.model, 300, SPECIAL)
    return encoder, build_model(encoder, dtype=config.dtype).count()


def first_weights(config, place):
    model = build_model(encoder_config(config.model, 300, SPECIAL))
    params = jax.jit(model.init)(jax.random.key(config.seed))
    return [float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(params)]


def rows_of_the_embedding(config, place):
    return build_model(encoder_config(config.model, 300, SPECIAL)).shapes()["embeddings"]["word"].shape


def program(config, place):
    """The program of the forward and backward pass."""
    model = build_model(encoder_config(config.model, 300, SPECIAL), dtype=config.dtype)
    params = jax.eval_shape(model.init, jax.random.key(0))
    rows = jax.ShapeDtypeStruct((2, 8), jnp.int32)

    def loss(params, tokens, segments, positions):
        return model.encode(params, tokens, segments, positions).astype(jnp.float32).sum()

    with jax.default_matmul_precision(config.matmul_precision):
        return jax.jit(jax.grad(loss)).lower(params, rows, rows, rows).as_text()


def rates(config, place):
    phases = resolve_phases(config, epoch_steps=8)
    schedule = schedule_of_phases(config.schedule, config.optimizer.learning_rate, phases)
    schedule = scaled_by_batch(schedule, config.optimizer, phases)
    return [float(schedule(step)) for step in range(phases[-1].stop)]


def updates(config, place):
    """What two steps of the optimiser make of the matrix of a layer's heads and of a bias."""
    params = {"layers": {"w": jnp.full((2, 4, 2, 2), 0.5).at[0, 0].set(1.0)}, "b": jnp.ones(3)}
    axes = {"layers": {"w": ("layers", "embed", "heads", None)}, "b": ("embed",)}
    decay = {"layers": {"w": True}, "b": False}
    gradients = jax.tree.map(lambda leaf: jnp.linspace(1.0, 9.0, leaf.size).reshape(leaf.shape), params)
    optimizer = make_optimizer(config.optimizer, lambda step: config.optimizer.learning_rate, decay, axes)

    @jax.jit
    def after_two_steps(params):
        state = optimizer.init(params)
        for power in (1.0, 1.5):
            scaled = jax.tree.map(lambda leaf, to=power: -(leaf**to), gradients)
            change, state = optimizer.update(scaled, state, params)
            params = optax.apply_updates(params, change)
        return params

    params = after_two_steps(params)
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(params)]


def tables(config, place):
    built = MaskingTables.build(config.masking, load(str(place / "model")))
    marks = None if built.word_starts is None else built.word_starts.sum()
    return built.mask_fraction, built.random_fraction, marks


def phases(config, place):
    return [
        (
            *(each.stop, each.seq_len, each.global_batch, each.grad_accum, each.data.path),
            each.objective,
            predictions_per_row(each.masking_rate, 40),
        )
        for each in resolve_phases(config, epoch_steps=8 * (config.epochs or 0))
    ]


def batches(config, place):
    """The first batches, as far as they depend on the data."""
    tokenizer = load(str(place / "model"))
    phase = resolve_phases(config, epoch_steps=8)[0]
    with open_batches(
        phase.data, tokenizer.encode, tokenizer.special, seed=config.seed, seq_len=phase.seq_len,
        global_batch=phase.global_batch, rows=tuple(range(phase.global_batch)), states=None, epochs=None,
    ) as found:  # fmt: skip
        first = [next(found).arrays for _ in range(3)]
    return hashlib.sha256(
        b"".join(np.ascontiguousarray(each[name]).tobytes() for each in first for name in sorted(each))
    ).hexdigest()


def documents(config, place):
    return hashlib.sha256("\n".join(training_documents(config.data)).encode()).hexdigest()


def held_out(config, place):
    from data.held_out_rows import evaluation_rows

    tokenizer = load(str(place / "model"))
    rows = evaluation_rows(config.data, tokenizer.encode, tokenizer.special, seq_len=32, max_rows=4)
    return rows["tokens"].tolist()


def bad_documents(config, place):
    (place / "bad.txt").write_bytes(b"\xff\xfe\n" + (place / "text.txt").read_bytes())
    source = open_source(
        dataclasses.replace(config.data, path=str(place / "bad.txt"), mix=(), source="files")
    )
    try:
        return sum(not record.dropped for shard in range(len(source.shards)) for record in source.read(shard))
    except UserError as error:
        return str(error)


def trained_tokenizer(config, place):
    """Of words whose composed letters, number and first letters tell the settings apart."""
    texts = [*(place / "text.txt").read_text().splitlines(), *["cafe\u0301 au lait"] * 50]
    folder = epath.Path(place / f"tokenizer-{hashlib.sha256(repr(config.tokenizer).encode()).hexdigest()}")
    train_tokenizer(texts, config.tokenizer, folder, model_max_length=32, progress=False)
    return (folder / "tokenizer.json").read_text()


def the_tokenizer(config, place):
    folder = epath.Path(place / f"run-{hashlib.sha256(repr(config).encode()).hexdigest()}")
    return assemble(config, folder, None).tokenizer.fingerprint()


def mesh(config, place):
    return mesh_sizes(config.mesh, 8, 2 if config.mesh.replica == 2 else 1)


def weights_of_the_start(config, place):
    job = assemble(config, epath.Path(place / f"start{bool(config.init_from)}"), None)
    return job.encoder.hidden_size, job.tokenizer.fingerprint()


def generator(config, place):
    return dropout_generator(config.dropout_rng, "cpu")


def files(config, place):
    """What a run of four steps leaves: logged and evaluated steps, loss, checkpoints, a profile."""
    workdir = epath.Path(place / f"files-{hashlib.sha256(repr(config).encode()).hexdigest()}")
    with on_one_device():
        train(dataclasses.replace(config, steps=4), workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return (
        [line["step"] for line in lines if "train/loss" in line],
        [line["step"] for line in lines if "eval/loss" in line],
        [line["eval/loss"] for line in lines if "eval/loss" in line],
        sorted(path.name for path in (workdir / "checkpoints").iterdir()),
        sorted(path.name for path in workdir.glob("profile/plugins/profile/*/*")) != [],
    )


ACTS: dict[str, tuple[typing.Any, typing.Any]] = {
    "seed": (5, batches),
    "steps": (9, phases),
    "epochs": (2, phases),
    "global_batch": (16, phases),
    "seq_len": (24, batches),
    "grad_accum": (2, phases),
    "dtype": ("bfloat16", program),
    "matmul_precision": ("highest", program),
    "dropout_rng": ("rbg", generator),
    "init_from": ("{place}/model", weights_of_the_start),
    "tokenizer.path": ("{place}/model", the_tokenizer),
    "tokenizer.vocab_size": (290, trained_tokenizer),
    "tokenizer.min_frequency": (10**6, trained_tokenizer),
    **{f"tokenizer.sample_{n}": (k, trained_tokenizer) for n, k in (("documents", 100), ("bytes", 9000))},
    **dict.fromkeys(("tokenizer.nfc", "tokenizer.add_prefix_space"), (True, trained_tokenizer)),
    "data.path": ("{place}/other.txt", documents),
    "data.text_field": ("body", documents),
    "data.txt_documents": ("blank_line", documents),
    "data.bad_documents": ("skip", bad_documents),
    "data.filters.min_chars": (90, documents),
    "data.mix": ([{"source": "files", "path": "{place}/other.txt"}], documents),
    "data.mix[0].weight": (0.2, batches),
    "data.streams": (2, batches),
    "data.window": (2, batches),
    "data.packing": ("lines", batches),
    "data.eval_fraction": (0.5, documents),
    "data.eval_source": ({"source": "files", "path": "{place}/other.txt"}, held_out),
    "model.family": ("bert", network),
    "model.config_file": ("{place}/model", lambda config, place: encoder_config(config.model, 320, SPECIAL)),
    "model.vocab_size": (400, network),
    "model.vocab_multiple": (7, rows_of_the_embedding),
    "model.hidden_size": (64, network),
    "model.num_hidden_layers": (3, network),
    "model.num_attention_heads": (2, network),
    "model.intermediate_size": (48, network),
    "model.hidden_act": ("relu", program),
    "model.max_position_embeddings": (80, network),
    "model.type_vocab_size": (2, network),
    "model.layer_norm_eps": (1e-3, program),
    "model.initializer_range": (0.5, first_weights),
    "model.position_init": ("sinusoidal", first_weights),
    **dict.fromkeys(("model.hidden_dropout_prob", "model.attention_probs_dropout_prob"), (0.4, network)),
    "model.embedding_size": (16, network),
    "model.local_attention": (8, network),
    "model.global_attn_every_n_layers": (1, network),
    **dict.fromkeys(("model.global_rope_theta", "model.local_rope_theta"), (5.0, network)),
    "model.tie_word_embeddings": (False, network),
    "model.attention": ("cudnn", program),
    "model.remat": ("full", program),
    "model.scan_unroll": (2, program),
    "model.dropout_bits": (8, network),
    "model.narrow_layers": (1, network),
    "objective.name": ("clm", phases),
    "masking.rate": (0.5, phases),
    "masking.mask_fraction": (0.5, tables),
    "masking.random_fraction": (0.2, tables),
    "masking.whole_word": (True, tables),
    "optimizer.name": ("lamb", updates),
    **{f"optimizer.{name}": (0.5, updates) for name in (*ADAMS, *MUONS)},
    "optimizer.reference_batch": (64, rates),
    "optimizer.batch_exponent": (1.0, rates),
    **{f"optimizer.{name}": (value, updates) for name, value in NAMED.items()},
    "optimizer.moment_dtype": ("bfloat16", updates),
    "optimizer.clip_norm": (0.1, updates),
    "schedule.name": ("cosine", rates),
    "schedule.warmup_steps": (4, rates),
    **dict.fromkeys(("schedule.final_fraction", "schedule.decay_fraction"), (0.5, rates)),
    **dict.fromkeys(("mesh.replica", "mesh.zero1", "mesh.fsdp", "mesh.tensor"), (2, mesh)),
    "mesh.data": (4, mesh),
    **dict.fromkeys(("log.every", "eval.every", "checkpoint.every"), (2, files)),
    **dict.fromkeys(("log.profile_steps", "eval.steps", "checkpoint.keep"), (1, files)),
    "eval.masking_rate": (0.5, files),
    "phases": ([{"steps": 3}, {"steps": 4}], phases),
    "phases[0].steps": (5, phases),
    "phases[0].seq_len": (16, phases),
    "phases[0].global_batch": (16, phases),
    "phases[0].grad_accum": (2, phases),
    "phases[0].masking_rate": (0.5, phases),
    "phases[0].objective": ("clm", phases),
    "phases[0].data": ({"source": "files", "path": "{place}/other.txt", "streams": 4}, phases),
}
"""Every field with another value, and what that changes."""

BESIDE = {
    "epochs": {"steps": 0, "epochs": 1},
    "data.text_field": {"data": {"path": "{place}/rows.jsonl"}},
    "data.txt_documents": {"data": {"path": "{place}/blocks.txt"}},
    "data.mix": {
        "data": {"source": "mix", "path": "", "mix": [{"source": "files", "path": "{place}/text.txt"}]}
    },
    "data.mix[0].weight": {
        "data": {
            "source": "mix",
            "path": "",
            "mix": [
                {"source": "files", "path": "{place}/text.txt"},
                {"source": "files", "path": "{place}/other.txt"},
            ],
        }
    },
    **{f"optimizer.{name}": {"optimizer": {"name": "normuon"}} for name in (*MUONS, *NAMED)},
    "optimizer.batch_exponent": {"optimizer": {"reference_batch": 64}},
    "schedule.decay_fraction": {"schedule": {"name": "wsd"}},
    "mesh.data": {"mesh": {"data": 8, "fsdp": -1}},
    "model.remat": {"model": {"num_hidden_layers": 3}},
    "model.embedding_size": {"model": {"family": "electra"}},
    **{
        f"model.{name}": {"model": {"family": "modernbert"}}
        for name in ("local_attention", "global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")
    },
    "eval.steps": {"eval": {"every": 4}},
    "eval.masking_rate": {"eval": {"every": 4}},
    "checkpoint.keep": {"checkpoint": {"every": 1}},
    "log.every": {"log": {"every": 1}},
    "phases": {"steps": 0, "phases": [{"steps": 2}, {"steps": 4}]},
    **{
        f"phases[0].{field.name}": {"steps": 0, "phases": [{"steps": 3}, {"steps": 4}]}
        for field in dataclasses.fields(PhaseConfig)
    },
}
"""What a field needs beside it."""

ELSEWHERE = {
    **dict.fromkeys(("on_nonfinite", "max_skipped"), "tests/faults/test_bad_numbers.py"),
    **{f"spike.{each.name}": "tests/faults/test_loss_spikes.py" for each in dataclasses.fields(SpikeConfig)},
    **CHANGING_OVER_A_RUN,
    **dict.fromkeys(("average.decay", "init_weights", "objective.z_loss"), "tests/pretrain/test_averages.py"),
    **dict.fromkeys(("init_tiled", "init_vocabulary"), "tests/pretrain/test_starts.py"),
    "checkpoint.verify": "tests/faults/test_damaged_checkpoints.py",
    "time_limit": "tests/faults/test_watchdog.py",
    **dict.fromkeys(("log.trackers", "log.project"), "tests/pretrain/test_trackers.py"),
    **dict.fromkeys(("card.language", "card.license"), "tests/pretrain/test_model_card.py"),
    "tokenizer.sample_from": "tests/tokenizer/test_sample.py",
    "data.source": "tests/data/test_source_pydoc.py",
    **dict.fromkeys(("data.name", "data.revision"), "tests/data/test_source_hub.py"),
    "data.temperature": "tests/data/test_prepared_batches.py",
    "data.split_files": "tests/data/test_file_parts.py",
    "data.subset": "tests/data/test_source_oscar.py",
    **dict.fromkeys(("data.split", "data.data_dir"), "tests/data/test_source_tfds.py"),
    "data.filters.quality_warnings": "tests/data/test_source_oscar.py",
    "data.filters.min_language_probability": "tests/data/test_source_oscar.py",
    "data.filters.min_harmful_pp": "tests/data/test_source_oscar.py",
    **dict.fromkeys(
        ("data.weight", "data.prefetch", "log.profile_start", "distributed", "compilation_cache"),
        "tests/pretrain/test_settings_unused.py",
    ),
}
"""Fields of sources that need data of their own, and of the process: the tests in which they are seen to act."""
REFUSED_HERE = {
    "model.attention": "config.model.attention=cudnn runs on a GPU",
    "tokenizer.min_frequency": "lower config.tokenizer.min_frequency=1000000",
}
"""Fields whose other value is refused here, so that it is not passed over, and what is said."""


def leaves():
    """The paths of every field; of sources that are in others, those of one stand for all."""
    found = set(Names.of(PretrainConfig, ()).fields)
    found |= {f"phases[0].{field.name}" for field in dataclasses.fields(PhaseConfig)}
    return {path for path in found if not path.startswith("data.eval_source.")} | {"data.eval_source"}


def test_every_field_is_shown_to_act():
    assert {path for path in ACTS if "mix[" not in path} | set(ELSEWHERE) == leaves()
    assert not_mentioned(ELSEWHERE) == {}


@pytest.mark.parametrize("path", ACTS)
def test_a_field_acts(place, path):
    value, seen = ACTS[path]
    before = tiny_config(place / "text.txt", **placed(BESIDE.get(path, {}), place))
    after = with_field(before, path, placed(value, place))
    assert before != after

    seen_before = look(seen, before, place)
    if path in REFUSED_HERE:
        with pytest.raises(UserError, match=REFUSED_HERE[path]):
            look(seen, after, place)
    else:
        assert seen_before != look(seen, after, place)


@functools.cache
def look(seen, config, place):
    """What is seen of a config; once, as many fields change the same one."""
    return seen(config, place)
