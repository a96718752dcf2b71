"""Data sets, one file per kind; `splits` makes training, validation and test rows of any."""
