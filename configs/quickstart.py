"""A small ModernBERT on the embedded corpus: three minutes of training, five in all.

python -m pretrain --config=configs/quickstart.py --workdir=runs/quickstart

Hardware: 2 CPU cores. Data: the English documentation of Python and of the installed packages; nothing is downloaded.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The quickstart's fields."""
    config = ml_collections.ConfigDict()
    config.steps = 1200
    config.global_batch = 16
    config.seq_len = 64
    config.tokenizer = {"vocab_size": 4096}
    config.data = {"source": "pydoc", "window": 256, "eval_fraction": 0.03}
    config.model = {
        "family": "modernbert",
        "hidden_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 512,
        "max_position_embeddings": 8192,
        "position_init": "neighbours",
        "word_init": "bigrams",
        "scan_unroll": 0,
    }
    config.masking = {"rate": 0.4}
    config.optimizer = {"name": "muon", "learning_rate": 2e-3, "weight_decay": 0.01, "clip_norm": 1.0}
    config.schedule = {"warmup_steps": config.get_ref("steps") // 10}
    config.log = {"every": 50}
    config.eval = {"every": 300, "steps": 32}
    config.checkpoint = {"every": 500, "keep": 2}
    return config
