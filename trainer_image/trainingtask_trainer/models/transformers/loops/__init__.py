"""Training loops: the plain one, which is the default, and Hugging Face's Trainer."""
