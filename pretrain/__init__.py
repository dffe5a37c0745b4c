"""Masked-language-model pretraining, and the runtime that fine-tuning shares with it.

`python -m pretrain --config=configs/X.py --workdir=DIR` starts a run; the same command resumes it.
`python -m pretrain.export --workdir=DIR --out=HF_DIR` writes the model in Hugging Face's format.
"""
