"""ModernBERT-base, 149M parameters (Warner et al. 2024): rows of 1024 tokens, whole documents packed.

python -m pretrain --config=configs/modernbert_base.py --workdir=gs://BUCKET/modernbert-base \
    --config.data.source=hub --config.data.name=allenai/c4 --config.data.subset=en

Hardware: a TPU v5litepod-256, with --config.grad_accum=2 --config.mesh.data=1 --config.mesh.fsdp=64
--config.mesh.zero1=4. `python -m pretrain.plan` models a step of 1024 with at least 0.18 s and 6.3 of 16 GiB a chip
(0.22 s and 12.2 GiB without micro-batches). On a v6e-8 or v5p-16: --config.grad_accum=64 --config.mesh.data=1
--config.mesh.fsdp=8, 2.6 s or 3.1 s, and 6.2 GiB; 8 GPUs of 80 GB need 16 micro-batches (arithmetic).
Rows of 8192, with as many tokens in a batch: --config.seq_len=8192 --config.global_batch=512, at least 0.37 s.
The paper trains on 1.7T tokens; these 40,000 steps are a tenth of it.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe's fields."""
    config = ml_collections.ConfigDict()
    config.steps = 40_000
    config.global_batch = 4096
    config.seq_len = 1024
    config.dtype = "bfloat16"
    config.tokenizer = {"vocab_size": 50368, "sample_documents": 1_000_000}
    config.data = {
        "source": "hub",
        "name": "allenai/c4",
        "subset": "en",
        "packing": "documents",
        "streams": 256,
        "eval_fraction": 0.01,
    }
    config.model = {
        "family": "modernbert",
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "max_position_embeddings": 8192,
    }
    config.masking = {"rate": 0.3}
    config.optimizer = {"learning_rate": 8e-4, "weight_decay": 1e-5, "beta2": 0.98, "eps": 1e-6}
    config.schedule = {"name": "wsd", "warmup_steps": 700, "decay_fraction": 0.1}
    config.log = {"every": 100}
    config.eval = {"every": 5000, "steps": 1}
    config.checkpoint = {"every": 1000}
    return config
