import os

# From version 1.29 on ONNX Runtime reports what runs to its makers, unless it is told not to before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
