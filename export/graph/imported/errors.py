"""What is said of an ONNX file that cannot be used."""

from __future__ import annotations

import onnx

from heatserve.certification.errors import HeatserveError

_LONGEST_NAME = 100


class OnnxFileError(HeatserveError):
    """An ONNX file cannot be used; names the file, the node or tensor, and the reason."""


def quoted(name: str) -> str:
    """A name of the file, for a sentence: whatever characters are in it, and however long it is."""
    return repr(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…")


def node_in_words(node: onnx.NodeProto) -> str:
    """A node, for a sentence: its name, or else its first output, and its operator."""
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return f"node {quoted(node.name or next(iter(node.output), ''))} ({operator})"
