"""Training loops: the plain one, and transformers' Trainer."""
