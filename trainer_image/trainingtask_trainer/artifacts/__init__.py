"""What a training leaves: the model's folder, its card and plots, and where it came from."""
