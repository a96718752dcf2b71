"""Turns a TrainingTask's spec into a trained model and a report. Knows no kopf and runs without a cluster."""
