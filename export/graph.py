"""From a network to ONNX: its logits, the plain classifier, and the certified graph that is served.

Only `logits_graph` needs torch.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from certification.radius import RadiusMap
from export.certificate import certificate_graph, map_tensors

if TYPE_CHECKING:
    from torch import nn

OPSET = 18
"""ONNX Runtime from 1.14, TensorRT 10 and Triton's containers read it; what `torch.onnx.export` writes natively."""
IR_VERSION = 9


def logits_graph(network: nn.Module, *, input_shape: tuple[int, int, int]) -> onnx.ModelProto:
    """`image` FP32 [N, C, H, W] in [0,1] → `logits` FP32 [N, K], normalisation inside, N dynamic.

    Args:
        network: takes and returns what the graph does; put into eval mode.
        input_shape: C, H, W.
    """
    import torch

    example = torch.zeros(2, *input_shape)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's remarks about itself
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
    assert program is not None  # only without dynamo
    model: onnx.ModelProto = program.model_proto
    model.ir_version = IR_VERSION
    del model.metadata_props[:], model.graph.metadata_props[:]
    for node in model.graph.node:  # stack traces of the exporting machine
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    return model


def uint8_input(logits: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph on `image` UINT8 [N, H, W, C]: layout, and division by 255 as numpy does it, inside."""
    model = onnx.ModelProto()
    model.CopyFrom(logits)
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["pixels" if name == "image" else name for name in node.input]
    start = (  # TensorRT can only cast UINT8, so that comes first
        helper.make_node("Cast", ["image"], ["rows"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["rows"], ["levels"], perm=(0, 3, 1, 2)),
        helper.make_node("Div", ["levels", "white"], ["pixels"]),
    )
    for index, node in enumerate(start):
        graph.node.insert(index, node)
    graph.initializer.append(numpy_helper.from_array(np.float32(255).reshape(()), "white"))
    _, channels, height, width = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)
    shape: list[str | int | None] = ["N", height, width, channels]
    graph.input[0].CopyFrom(helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, shape))
    onnx.checker.check_model(model, full_check=True)
    return model


def takes_uint8(model: onnx.ModelProto) -> bool:
    """Whether `image` is UINT8 [N, H, W, C], and not FP32 [N, C, H, W]."""
    return bool(model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8)


def plain_graph(logits: onnx.ModelProto) -> onnx.ModelProto:
    """`image` → `probabilities`: what anyone would serve without a certificate; the floor of every benchmark."""
    model = onnx.ModelProto()
    model.CopyFrom(logits)
    model.graph.node.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    shape: list[str | int | None] = ["N", num_classes_of(logits)]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, shape))
    onnx.checker.check_model(model, full_check=True)
    return model


def certified_graph(logits: onnx.ModelProto, *, sigma: float) -> onnx.ModelProto:
    """The graph of DESIGN.md section 4: `image` to the six outputs; not calibrated, so its certified radii are 0.

    It takes what `logits` takes: FP32 [N, C, H, W] in [0,1], which is checked, or UINT8 [N, H, W, C].
    """
    model = onnx.ModelProto()
    model.CopyFrom(logits)
    certificate = certificate_graph(
        num_classes=num_classes_of(logits), sigma=sigma, check_image=not takes_uint8(logits)
    )
    model.graph.node.extend(certificate.node)
    model.graph.initializer.extend(certificate.initializer)
    del model.graph.output[:]
    model.graph.output.extend(certificate.output)
    onnx.checker.check_model(model, full_check=True)
    return model


def with_map(certified: onnx.ModelProto, radius_map: RadiusMap) -> onnx.ModelProto:
    """The same graph serving the certified radii of `radius_map`: three initializers are replaced, nothing else."""
    model = onnx.ModelProto()
    model.CopyFrom(certified)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in map_tensors(radius_map, num_classes=_served_classes(model)):
        if tensor.name not in initializers:
            raise ValueError(f"expected an initializer {tensor.name!r}: not a certified graph")
        initializers[tensor.name].CopyFrom(tensor)
    return model


def _served_classes(certified: onnx.ModelProto) -> int:
    """K, from the graph's output `probabilities` [N, K]."""
    outputs = {output.name: output for output in certified.graph.output}
    if "probabilities" not in outputs:
        raise ValueError("expected an output 'probabilities': not a certified graph")
    return int(outputs["probabilities"].type.tensor_type.shape.dim[1].dim_value)


def num_classes_of(logits: onnx.ModelProto) -> int:
    """K, from the graph's output `logits` [N, K]."""
    return int(logits.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
