"""A tiny model for twenty steps, to check that a run starts, logs, evaluates, saves and resumes.

python -m pretrain --config=configs/debug.py --workdir=runs/debug

Hardware: any CPU. Time: less than a minute, mostly compilation.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The debug run's fields."""
    config = ml_collections.ConfigDict()
    config.steps = 20
    config.global_batch = 16
    config.seq_len = 64
    config.tokenizer = {"vocab_size": 1000, "sample_documents": 200}
    config.data = {"source": "pydoc", "window": 16, "eval_fraction": 0.05}
    config.model = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 66,
        "scan_unroll": 0,
    }
    config.optimizer = {"learning_rate": 1e-3}
    config.schedule = {"warmup_steps": 2}
    config.log = {"every": 5}
    config.eval = {"every": 10, "steps": 2}
    config.checkpoint = {"every": 10}
    return config
