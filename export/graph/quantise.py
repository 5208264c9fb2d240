"""`python -m heatserve.export.graph.quantise GRAPH OUT IMAGES`: ONNX Runtime's quantiser, as a process of its own.

The quantiser opens sessions with thread pools of their own, which a process with one shared pool
(`heatserve.export.onnxruntime_start`) does not allow.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from heatserve.certification.radius import Float32Array

_BATCH = 64


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Float32Array) -> None:
        self._batches = iter(np.array_split(images, -(-len(images) // _BATCH)))

    def get_next(self) -> dict[str, Float32Array] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def quantise(graph: Path, out: Path, images: Float32Array) -> None:
    """Write `graph` with INT8 weights, one scale a channel, and UINT8 activations, in the ranges that `images` show.

    Weights use 7 of their 8 bits. So sums do not saturate on CPUs without VNNI, and all CPUs give the same answers.

    Args:
        graph: a file, FP32 [N, C, H, W] → FP32 [N, K].
        out: the file to write.
        images: FP32 [M, C, H, W].
    """
    logging.disable(logging.WARNING)  # it recommends a pre-processing that the exporter has done
    quantize_static(
        graph,
        out,
        _Images(images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )


if __name__ == "__main__":
    graph, out, images = map(Path, sys.argv[1:])
    quantise(graph, out, np.load(images))
