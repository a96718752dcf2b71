"""Decisions on one task: which objects it needs, and what its status is to say."""
