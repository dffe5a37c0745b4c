"""RoBERTa-large, 355M parameters (Liu et al. 2019, table 9).

python -m pretrain --config=configs/roberta_large.py --workdir=gs://BUCKET/roberta-large \
    --config.data.source=hub --config.data.name=allenai/c4 --config.data.subset=en

Hardware: a TPU v4-32, where `python -m pretrain.plan` models a step of at least 0.97 s and 19 of 32 GiB; or 16 GPUs
of 80 GB.
On a v6e-8: --config.grad_accum=8, at least 1.1 s and 19 of 32 GiB.
On a v5litepod-256: --config.grad_accum=1 --config.data.streams=256 --config.mesh.fsdp=64 --config.mesh.zero1=4.
100,000 steps of 2048 x 512 are 1.0e11 tokens, about 2.1e20 FLOP: 9 hours of 16 H100 at 40% MFU (arithmetic, not a
measurement).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe's fields."""
    config = ml_collections.ConfigDict()
    config.steps = 100_000
    config.global_batch = 2048
    config.seq_len = 512
    config.grad_accum = 4
    config.dtype = "bfloat16"
    config.tokenizer = {"vocab_size": 50265, "sample_documents": 1_000_000}
    config.data = {
        "source": "hub",
        "name": "allenai/c4",
        "subset": "en",
        "streams": 64,
        "eval_fraction": 0.01,
    }
    config.model = {
        "family": "roberta",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "attention_probs_dropout_prob": 0.0,
    }
    config.optimizer = {"learning_rate": 4e-4, "weight_decay": 0.01, "beta2": 0.98, "eps": 1e-6}
    config.schedule = {"name": "linear", "warmup_steps": 30_000}
    config.mesh = {"data": 1, "fsdp": -1}
    config.log = {"every": 100}
    config.eval = {"every": 5000, "steps": 1}
    config.checkpoint = {"every": 2500}
    return config
