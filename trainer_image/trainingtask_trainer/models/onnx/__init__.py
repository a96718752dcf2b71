"""Models in the ONNX format: how they are written, and predictions without torch."""
