"""BERT-base, 110M parameters (Devlin et al. 2019), masked language modelling only: nine tenths of the steps at 128
tokens, the last tenth at 512.

python -m pretrain --config=configs/bert_base.py --workdir=gs://BUCKET/bert-base \
    --config.data.source=hub --config.data.name=allenai/c4 --config.data.subset=en \
    --config.tokenizer.path=google-bert/bert-base-uncased

Hardware: a TPU v3-8 or 8 GPUs. 1,000,000 steps are 4.3e10 tokens, about 2.4e19 FLOP: 27 hours of a
v3-8 at 50% MFU (arithmetic, not a measurement).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe's fields."""
    config = ml_collections.ConfigDict()
    config.global_batch = 256
    config.seq_len = 128
    config.phases = [
        {"steps": 900_000},
        {"steps": 100_000, "seq_len": 512, "grad_accum": 2},
    ]
    config.dtype = "bfloat16"
    config.tokenizer = {"path": "google-bert/bert-base-uncased"}
    config.data = {
        "source": "hub",
        "name": "allenai/c4",
        "subset": "en",
        "streams": 32,
        "eval_fraction": 0.005,
    }
    config.model = {
        "family": "bert",
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "attention_probs_dropout_prob": 0.0,
    }
    config.optimizer = {
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        "beta2": 0.999,
        "eps": 1e-6,
        "clip_norm": 1.0,
    }
    config.schedule = {"name": "linear", "warmup_steps": 10_000}
    config.log = {"every": 100}
    config.eval = {"every": 10_000, "steps": 8}
    config.checkpoint = {"every": 5000}
    return config
