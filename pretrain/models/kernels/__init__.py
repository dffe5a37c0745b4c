"""Attention kernels that never write the scores of all pairs out; `pretrain.models.attention` has the table."""
