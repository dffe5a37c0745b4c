"""RoBERTa-base, 125M parameters (Liu et al. 2019, table 9): sequences of 512, packed from end to end.

python -m pretrain --config=configs/roberta_base.py --workdir=gs://BUCKET/roberta-base \
    --config.data.source=hub --config.data.name=allenai/c4 --config.data.subset=en

Hardware: a TPU v4-32, or 8 GPUs of 80 GB (about 28 GB of each: arithmetic, not a measurement). On fewer devices raise
--config.grad_accum.
On a v5litepod-256: --config.grad_accum=1 --config.data.streams=256 --config.mesh.fsdp=64 --config.mesh.zero1=4.
The paper trains on batches of 8192 x 512 for 500,000 steps: 2.1T tokens, 1.3e21 FLOP. This default is a tenth of it:
1.3e20 FLOP, 11 hours of 8 H100 at 40% MFU (arithmetic, not a measurement).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe's fields."""
    config = ml_collections.ConfigDict()
    config.steps = 200_000
    config.global_batch = 2048
    config.seq_len = 512
    config.grad_accum = 2
    config.dtype = "bfloat16"
    config.tokenizer = {"vocab_size": 50265, "sample_documents": 1_000_000}
    config.data = {
        "source": "hub",
        "name": "allenai/c4",
        "subset": "en",
        "streams": 64,
        "eval_fraction": 0.01,
    }
    config.model = {"family": "roberta", "attention_probs_dropout_prob": 0.0}
    config.optimizer = {"learning_rate": 6e-4, "weight_decay": 0.01, "beta2": 0.98, "eps": 1e-6}
    config.schedule = {"name": "linear", "warmup_steps": 24_000}
    config.mesh = {"data": 1, "fsdp": -1}
    config.log = {"every": 100}
    config.eval = {"every": 5000, "steps": 1}
    config.checkpoint = {"every": 2500}
    return config
