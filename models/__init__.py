import cachenet.shared  # noqa: F401 - settles how ONNX Runtime is loaded
