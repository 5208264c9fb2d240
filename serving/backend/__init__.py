"""The Triton backend `onnxruntime` for installations of Triton that lack NVIDIA's native one."""
