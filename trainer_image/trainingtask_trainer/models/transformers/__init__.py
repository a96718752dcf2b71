"""Fine-tuning of transformers: what is read, how it is learnt, and what keeps it within its memory."""
