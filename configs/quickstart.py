"""A small RoBERTa on the embedded corpus: the whole path in about three minutes.

python -m pretrain --config=configs/quickstart.py --workdir=runs/quickstart

Hardware: 2 CPU cores. Data: the documentation of Python and of the installed packages (English, nothing is downloaded).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The quickstart's fields."""
    config = ml_collections.ConfigDict()
    config.steps = 400
    config.global_batch = 32
    config.seq_len = 128
    config.tokenizer = {"vocab_size": 8192}
    config.data = {"source": "pydoc", "window": 256, "eval_fraction": 0.03}
    config.model = {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "max_position_embeddings": 130,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "scan_unroll": 0,
    }
    config.optimizer = {"learning_rate": 1e-3, "weight_decay": 0.01, "clip_norm": 1.0}
    config.schedule = {"warmup_steps": config.get_ref("steps") // 10}
    config.eval = {"every": 100, "steps": 8}
    config.checkpoint = {"every": 200, "keep": 2}
    return config
