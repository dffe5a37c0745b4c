"""Masked-language-model pretraining, and the runtime that fine-tuning shares with it.

`python -m pretrain --config=configs/X.py --workdir=DIR` runs the job, and run again resumes it;
`python -m pretrain.export --workdir=DIR --out=HF_DIR` hands the result to the Hugging Face ecosystem.
"""
