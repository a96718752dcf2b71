"""The output of a training: the model's folder, its card and plots, and its provenance."""
