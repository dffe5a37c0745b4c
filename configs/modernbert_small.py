"""A ModernBERT of 11M parameters for a laptop, on the embedded corpus or on your own files.

python -m pretrain --config=configs/modernbert_small.py --workdir=runs/small \
    --config.data.source=files --config.data.path='corpus/*.txt.gz' --config.data.txt_documents=blank_line

The second line reads your own text. Without it the run learns the English documentation of Python and of the installed
packages; nothing is downloaded.
Hardware: a laptop, or any GPU (there with --config.dtype=bfloat16). A step has 187 GFLOP: 0.5 s at the peak of two
cores of an AMD EPYC (0.35 TFLOP/s in float32), so 5000 steps (20M tokens) take at least 45 minutes there (arithmetic);
runs of such small networks reach a quarter to a half of the peak. The learning rate is constant and falls in the last
fifth of the steps; docs/resuming.md shows how one run gets several ends. Longer rows need no other network:
--config.seq_len=1024 --config.global_batch=4 --config.data.streams=4.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe's fields."""
    config = ml_collections.ConfigDict()
    config.steps = 5000
    config.global_batch = 16
    config.seq_len = 256
    config.tokenizer = {"vocab_size": 16_000}
    config.data = {"packing": "documents", "window": 128, "eval_fraction": 0.02}
    config.model = {
        "family": "modernbert",
        "hidden_size": 320,
        "num_hidden_layers": 6,
        "num_attention_heads": 5,
        "intermediate_size": 512,
        "max_position_embeddings": 8192,
        "global_rope_theta": 10_000.0,
        "position_init": "neighbours",
        "word_init": "bigrams",
        "scan_unroll": 0,
    }
    config.masking = {"rate": 0.3}
    config.optimizer = {"name": "muon", "learning_rate": 2e-3, "weight_decay": 0.01, "clip_norm": 1.0}
    config.schedule = {
        "name": "wsd",
        "warmup_steps": config.get_ref("steps") // 20,
        "decay_fraction": 0.2,
    }
    config.log = {"every": 20}
    config.eval = {"every": 500, "steps": 16}
    config.checkpoint = {"every": 500}
    return config
