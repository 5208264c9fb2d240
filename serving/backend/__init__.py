"""Holds `model.py`, the Triton backend `onnxruntime` of installations of Triton that lack NVIDIA's native one."""
