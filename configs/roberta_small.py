"""A RoBERTa of 9M parameters, for a language or a domain with little text, or for a slow machine.

python -m pretrain --config=configs/roberta_small.py --workdir=runs/small \
    --config.data.path='corpus/*.txt.gz' --config.data.txt_documents=blank_line

Hardware: a laptop, or any GPU. On 2 CPU cores, 5000 steps (10M tokens) take about an hour. benchmarks/RESULTS.md has a
run on Norwegian newspaper reviews, and the gains from Muon, from heads that start at neighbours and from words that
start at counts.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe's fields."""
    config = ml_collections.ConfigDict()
    config.steps = 5000
    config.global_batch = 16
    config.seq_len = 128
    config.tokenizer = {"vocab_size": 16_000}
    config.data = {"source": "files", "path": "", "eval_fraction": 0.01}
    config.model = {
        "hidden_size": 320,
        "num_hidden_layers": 3,
        "num_attention_heads": 5,
        "intermediate_size": 1280,
        "max_position_embeddings": 514,
        "initializer_range": 0.05,
        "position_init": "neighbours",
        "word_init": "cooccurrence",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "scan_unroll": 0,
    }
    config.masking = {"rate": 0.4}
    config.optimizer = {"name": "muon", "learning_rate": 1e-3, "weight_decay": 0.01, "clip_norm": 1.0}
    config.schedule = {"warmup_steps": config.get_ref("steps") // 20}
    config.log = {"every": 20}
    config.eval = {"every": 500, "steps": 16}
    config.checkpoint = {"every": 500}
    return config
