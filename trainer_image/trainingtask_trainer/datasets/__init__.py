"""Data sets, one file per kind; `splits` does what all of them share."""
