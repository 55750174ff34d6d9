"""ONNX files: read, written, edited, quantised."""
