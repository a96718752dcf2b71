"""Rows of the history -> view models and texts of the pages. Pure."""
