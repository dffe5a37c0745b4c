"""Runs as older code left them, in runs.tar.gz: `pretrain` stopped at step 3 of 8, `finetune` at step 5 of 14.

Beside them: the text and the task they read, expected.json with what the same code logged afterwards, and
pretrain_params.npz with what it ended with. All paths in them are relative. Made on 2026-11-29, version 0.1.0.
"""
