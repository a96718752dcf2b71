"""How text becomes what a model reads, one file per kind."""
