"""What is served, run in this process: ONNX Runtime sessions, TensorRT plans, and the timing of requests."""
