"""Pretrained checkpoints, from the hub or a folder."""
