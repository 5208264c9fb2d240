"""The network in fewer bits: logits graphs in FP16, and in INT8 with QuantizeLinear and DequantizeLinear.

Input and logits stay FP32. So softmax, certificate and input checks are FP32 whatever the network's precision.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper

from heatserve.certification.errors import HeatserveError
from heatserve.certification.radius import Float32Array
from heatserve.export.graph.imported.assembly import SCORE_NODES
from heatserve.export.onnxruntime_start import start_onnxruntime


def to_fp16(logits: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, its network in FP16: FP32 [N, C, H, W] → FP32 [N, K], cast inside. For GPUs.

    ONNX Runtime's CPU kernels cast most operators back to FP32, with weights that are rounded to FP16. What makes
    logits of somebody's probabilities stays FP32, which has smaller ones, and so do operators of scikit-learn.
    """
    start_onnxruntime()
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    kept = [node.name for node in logits.graph.node if node.name.startswith(SCORE_NODES)]
    half: onnx.ModelProto = convert_float_to_float16(_with_shapes(logits), keep_io_types=False, node_block_list=kept)
    OnnxModel.graph_topological_sort(half.graph)  # casts before what FP16 has no operator for come last
    first, last = half.graph.input[0], half.graph.output[0]
    for node in half.graph.node:
        node.input[:] = ["image_fp16" if name == first.name else name for name in node.input]
        node.output[:] = ["logits_fp16" if name == last.name else name for name in node.output]
    half.graph.node.insert(0, helper.make_node("Cast", [first.name], ["image_fp16"], to=TensorProto.FLOAT16))
    half.graph.node.append(helper.make_node("Cast", ["logits_fp16"], [last.name], to=TensorProto.FLOAT))
    del half.graph.value_info[:]  # types and shapes of the FP32 graph
    for value in (first, last):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.checker.check_model(half, full_check=True)
    return half


def to_int8(logits: onnx.ModelProto, images: Float32Array) -> onnx.ModelProto:
    """The same graph, statically quantised for CPUs: see `heatserve.export.graph.quantise`.

    Args:
        logits: FP32 [N, C, H, W] → FP32 [N, K].
        images: FP32 [M, C, H, W], not of the calibration or test split: they set the ranges of the activations.

    Raises:
        HeatserveError: ONNX Runtime cannot quantise the graph, or nothing in it; says why.
    """
    with TemporaryDirectory(prefix="heatserve-int8-") as folder:
        source, out, data = (Path(folder) / name for name in ("fp32.onnx", "int8.onnx", "images.npy"))
        onnx.save(_with_shapes(logits), source)
        np.save(data, images)
        # `-m` looks in the folder where it runs first: one of ours, and not one that a file came to
        command = [sys.executable, "-m", "heatserve.export.graph.quantise", *map(str, (source, out, data))]
        python_path = os.pathsep.join(filter(None, sys.path))
        environment = {"ORT_DISABLE_TELEMETRY": "1", **os.environ, "PYTHONPATH": python_path}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HeatserveError(f"int8: ONNX Runtime's quantiser failed:\n{done.stderr.strip()}")
        model = onnx.load(out)
    if not any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        raise HeatserveError("int8: expected layers that can be quantised, convolutions or matrix products, found none")
    onnx.checker.check_model(model, full_check=True)
    return model


def _with_shapes(logits: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(logits, strict_mode=True, data_prop=True)
