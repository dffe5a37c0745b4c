"""Norwegian ModernBERT-base, 149M parameters, in the three phases of the paper (Warner et al. 2024, arXiv:2412.13663).

python -m pretrain --config=configs/modernbert_base_oscar_no.py --workdir=gs://BUCKET/modernbert-no \
    --config.data.path=gs://BUCKET/oscar/no_meta \
    '--config.phases[2].data.source=files' '--config.phases[2].data.path=gs://BUCKET/best/*.jsonl.zst'

1. Rows of 1024 tokens at a constant learning rate. The batch grows over the first steps.
2. Context extension: rows of 8192, as many tokens in a batch, a rotary base of 160,000 in place of 10,000 in the global
   layers, a lower learning rate.
3. Decay: the learning rate falls to 0 as 1-sqrt, on other text. phases[2].data is yours to choose; without it the run
   is refused at its start.
The phases have the shares of the paper: 1.7T, 250B and 50B tokens there, 41B, 6.2B and 1.3B here. So are the learning
rates the paper's. They belong to its batches of 4.7M tokens, and are not tuned for these of 1.05M.
Data: a folder with the Norwegian part of any OSCAR release. To read from a hub instead, without a download:
    --config.data.source=hub --config.data.name=HPLT/HPLT2.0_cleaned --config.data.subset=nob_Latn
Hardware: a TPU v5litepod-64, with --config.mesh.data=1 --config.mesh.fsdp=64. `python -m pretrain.plan` models a step
of the first phase with at least 0.21 s, a step of the others with at least 0.33 s, 12.1 of 16 GiB a chip, and the
whole run with at least 3 hours. On 8 devices set --config.grad_accum=16, the most for the 128 rows of
phases 2 and 3, and --config.mesh.fsdp=8 (arithmetic).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The recipe's fields."""
    config = ml_collections.ConfigDict()
    config.global_batch = 1024
    config.seq_len = 1024
    config.batch_warmup_steps = 1600
    config.batch_warmup_from = 256
    config.dtype = "bfloat16"
    config.tokenizer = {"vocab_size": 50368, "min_frequency": 2, "sample_documents": 1_000_000}
    config.data = {
        "source": "oscar",
        "path": "",
        "packing": "documents",
        "streams": 64,
        "eval_fraction": 0.01,
    }
    long_rows = {"seq_len": 8192, "global_batch": 128, "global_rope_theta": 160_000.0, "learning_rate": 3e-4}
    config.phases = [
        {"steps": 39_200},
        {"steps": 5900, **long_rows},
        {
            "steps": 1200,
            **long_rows,
            "schedule": "1-sqrt",
            "data": {
                "source": "files",
                "path": "",
                "packing": "documents",
                "streams": 64,
                "eval_fraction": 0.01,
            },
        },
    ]
    config.model = {
        "family": "modernbert",
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "max_position_embeddings": 8192,
        "global_rope_theta": 10_000.0,
    }
    config.masking = {"rate": 0.3}
    config.optimizer = {"learning_rate": 8e-4, "weight_decay": 1e-5, "beta2": 0.98, "eps": 1e-6}
    config.schedule = {"name": "constant", "warmup_steps": 2000}
    config.log = {"every": 100}
    config.eval = {"every": 2500, "steps": 1}
    config.checkpoint = {"every": 1000}
    return config
