"""What no server of a model can beat: a model that computes nothing in the same Triton; ONNX Runtime without any."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from heatserve.benchmarks.records.load import RawRow, TailMilliseconds
from heatserve.export.contract import OUTPUT_TENSORS
from heatserve.export.graph.build import served_classes
from heatserve.export.runtime.session import open_session
from heatserve.serving.pixels import Pixels

RAW_BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""The sizes among which the best batch of ONNX Runtime is searched."""
_WARM_UP_RUNS = 3


def identity_graph(certified: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with the input, outputs and constants of a certified one, which answers zeros and computes nothing.

    It can be published and served like the certified one, and whoever asks cannot tell them apart but by the time that
    an answer takes: that is what request, queue, shared memory and answer cost.
    """
    model = onnx.ModelProto()
    model.CopyFrom(certified)
    classes = served_classes(certified)
    nodes = [helper.make_node("Shape", ["image"], ["images"], start=0, end=1)]
    for tensor in OUTPUT_TENSORS:
        shape = tensor.shape(classes)
        row = numpy_helper.from_array(np.zeros(1, tensor.dtype))
        sizes = "images"
        if shape:
            axes, sizes = f"{tensor.name}_axes", f"{tensor.name}_sizes"
            model.graph.initializer.append(helper.make_tensor(axes, TensorProto.INT64, [len(shape)], shape))
            nodes.append(helper.make_node("Concat", ["images", axes], [sizes], axis=0))
        nodes.append(helper.make_node("ConstantOfShape", [sizes], [tensor.name], value=row))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model


def raw_milliseconds(graph: Path, images: Pixels, seconds: float) -> list[float]:
    """Milliseconds of each run of a graph on one batch, for some seconds, on the pool of threads of this process."""
    session = _session(graph)
    names = [output.name for output in session.get_outputs()]
    for _ in range(_WARM_UP_RUNS):
        session.run(names, {"image": images})
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        session.run(names, {"image": images})
        times.append(1000 * (time.perf_counter() - start))
    return times


_session = cache(open_session)


def raw_row(batch: int, milliseconds: Sequence[float]) -> RawRow:
    """What runs of one batch size took."""
    return RawRow(
        batch=batch,
        milliseconds=tail_of(milliseconds),
        images_per_second=1000 * batch * len(milliseconds) / sum(milliseconds),
    )


def tail_of(milliseconds: Sequence[float]) -> TailMilliseconds:
    """The quantiles that are kept."""
    p50, p90, p99, p999 = np.percentile(milliseconds, (50, 90, 99, 99.9)).tolist()
    return TailMilliseconds(p50=p50, p90=p90, p99=p99, p999=p999)
