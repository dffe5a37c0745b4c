"""Masked-language-model pretraining: models, masking, sharding, the train step, the loop, checkpoints, export.

`python -m pretrain --config=configs/X.py --workdir=DIR` runs the job, and run again resumes it;
`python -m pretrain.export --workdir=DIR --out=HF_DIR` hands the result to the Hugging Face ecosystem.
"""
