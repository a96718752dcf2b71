"""Models: classical ones of scikit-learn, and transformers."""
