"""The served graph: a network in ONNX, its variants of input and precision, and the operators of the certificate."""
