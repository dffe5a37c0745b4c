"""Train, save and load ByteLevelBPE tokenizers.

`python -m tokenizer --config=configs/X.py --workdir=DIR` trains one from the documents that pretraining will
read; `tokenizer.load` opens any fast tokenizer and checks that its special tokens are those a masked language
model needs.
"""
