"""Scores of predictions, their baselines, and decision thresholds."""
