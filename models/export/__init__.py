"""ONNX models: reading, writing, editing, quantising, measuring."""
