"""From a TrainingTask's spec to a trained model and a report; runs with or without a cluster."""
