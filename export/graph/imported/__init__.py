"""Somebody's ONNX classifier as the logits graph that heatserve serves: read, brought to one form, and compared."""
