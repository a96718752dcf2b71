"""Preprocessors: from texts to the features that a model reads, one file per kind."""
