"""Fine-tuning of transformers: batches, losses, loops, checkpoints and the memory budget."""
