"""Running ONNX models."""
