"""From a network to ONNX: its logits, the plain classifier, and the certified graph that is served.

Only `logits_graph` needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import helper, parser
from onnx.utils import Extractor

from heatserve.certification.guard import Guard
from heatserve.certification.radius import RadiusMap
from heatserve.export.graph.certificate import (
    SIGMA_CONSTANTS,
    certificate_graph,
    constants_of,
    map_tensors,
    served_sigma,
)
from heatserve.export.graph.names import subgraphs, with_network_prefix
from heatserve.export.graph.proven import proven_certificate
from heatserve.export.graph.tracing import traced

if TYPE_CHECKING:
    from torch import nn

OPSET = 18
"""What `torch.onnx.export` writes natively. ONNX Runtime reads it from 1.14 on, and TensorRT's parser from 10 on."""
IR_VERSION = 9

# The cast comes first: TensorRT has no other operator that takes UINT8. Half a pixel of margin is rounded to even, as
# torchvision does; CenterCropPad rounds down, and only tells shape inference the size of what Slice cut out. The filter
# ends at the border of a picture (`exclude_outside`), as Pillow's does; by default the outermost pixels count for those
# beyond.
_UINT8 = """
bytes (uint8[N,{height},{width},{channels}] image) => (float[N,{channels},{height},{width}] pixels)
    <float white = {{255}}>
{{
    rows = Cast<to = 1>(image)
    levels = Transpose<perm = [0, 3, 1, 2]>(rows)
    pixels = Div(levels, white)
}}
"""
_PICTURE = """
picture (uint8[N,H,W,{channels}] image) => (float[N,{channels},{height},{width}] pixels)
    <float white = {{255}}, int64[1] shorter = {{{resize}}}, int64[2] window = {{{height}, {width}}},
     float margins = {{2}}, int64[2] window_axes = {{2, 3}}>
{{
    bytes = Transpose<perm = [0, 3, 1, 2]>(image)
    picture_size = Shape<start = 2, end = 4>(bytes)
    shorter_side = ReduceMin<keepdims = 1>(picture_size)
    enlarged_size = Mul(picture_size, shorter)
    resized_size = Div(enlarged_size, shorter_side)
    picture = Cast<to = 1>(bytes)
    resized = Resize<mode = "linear", antialias = 1, exclude_outside = 1, axes = [2, 3]>(picture, , , resized_size)
    margin = Sub(resized_size, window)
    whole_margin = Cast<to = 1>(margin)
    half_margin = Div(whole_margin, margins)
    even_margin = Round(half_margin)
    window_start = Cast<to = 7>(even_margin)
    window_end = Add(window_start, window)
    cut_out = Slice(resized, window_start, window_end, window_axes)
    centre = CenterCropPad<axes = [2, 3]>(cut_out, window)
    levels = Round(centre)
    pixels = Div(levels, white)
}}
"""


def logits_graph(network: nn.Module, *, input_shape: tuple[int, int, int]) -> onnx.ModelProto:
    """`image` FP32 [N, C, H, W] in [0,1] → `logits` FP32 [N, K], normalisation inside, N dynamic.

    Args:
        network: takes and returns what the graph does; put into eval mode.
        input_shape: C, H, W.

    Raises:
        NotExportableError: no graph can be this network; see `tracing.traced`.
    """
    model = traced(network, input_shape=input_shape, opset=OPSET)
    model.ir_version = IR_VERSION
    del model.metadata_props[:], model.graph.metadata_props[:]
    for node in model.graph.node:  # stack traces of the exporting machine
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    return model


def uint8_input(logits: onnx.ModelProto, *, resize: int | None = None) -> onnx.ModelProto:
    """The same graph on `image` UINT8 [N, H, W, C]: layout, and division by 255 as numpy does it, inside.

    Args:
        logits: on FP32 [N, C, H, W].
        resize: take pictures of any height and width, bring their shorter side to as many pixels (bilinear, with
            antialiasing), cut out the centre H×W and round to grey levels. It is what torchvision's Resize and
            CenterCrop do to a PIL image, to one grey level.
    """
    _, channels, height, width = (dim.dim_value for dim in logits.graph.input[0].type.tensor_type.shape.dim)
    template = _UINT8.format(height=height, width=width, channels=channels)
    if resize is not None:
        template = _PICTURE.format(height=height, width=width, channels=channels, resize=resize)
    start = parser.parse_graph(template)
    model = with_network_prefix(logits)
    graph = model.graph
    for part in subgraphs(graph):
        for node in part.node:
            node.input[:] = ["pixels" if name == "image" else name for name in node.input]
    nodes = [*start.node, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.extend(start.input)
    graph.initializer.extend(start.initializer)
    onnx.checker.check_model(model, full_check=True)
    return model


def pixels_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """The beginning of a graph that takes UINT8: from `image` to `pixels` FP32 [N, C, H, W] in [0,1]."""
    return Extractor(onnx.shape_inference.infer_shapes(model)).extract_model(["image"], ["pixels"])


def takes_uint8(model: onnx.ModelProto) -> bool:
    """Whether `image` is UINT8 [N, H, W, C], and not FP32 [N, C, H, W]."""
    return bool(model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8)


def image_fields(served: onnx.ModelProto) -> dict[str, object]:
    """`input_type`, `input_shape` and `resize` as the card of a served graph must state them, read from the graph.

    Raises:
        ValueError: not a certified graph.
    """
    if not served.graph.input:
        raise ValueError("expected an input 'image': not a certified graph")
    tensor = served.graph.input[0].type.tensor_type
    sizes = tuple(dim.dim_value for dim in tensor.shape.dim[1:])  # 0 where any size will do
    if not takes_uint8(served):
        return {"input_type": "FP32", "input_shape": sizes, "resize": None}
    *window, channels = sizes
    if all(window):
        return {"input_type": "UINT8", "input_shape": (channels, *window), "resize": None}
    window, shorter = (constant.tolist() for constant in constants_of(served.graph, "window", "shorter"))
    return {"input_type": "UINT8", "input_shape": (channels, *window), "resize": shorter[0]}


def plain_graph(logits: onnx.ModelProto) -> onnx.ModelProto:
    """`image` → `probabilities` FP32 [N, K], without a certificate: what benchmarks compare the served graph with."""
    model = with_network_prefix(logits)
    model.graph.node.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    shape: list[str | int | None] = ["N", num_classes_of(logits)]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, shape))
    onnx.checker.check_model(model, full_check=True)
    return model


def certified_graph(logits: onnx.ModelProto, *, sigma: float) -> onnx.ModelProto:
    """The served graph (docs/served-graph.md), from `image` to its outputs; every certified radius is 0.

    Args:
        logits: on FP32 [N, C, H, W] in [0,1], which the graph will check, or on UINT8 [N, H, W, C].
        sigma: σ of the smoothing noise, on the [0,1] pixel scale.

    The names of the network get a prefix, whatever they are.
    """
    certificate = certificate_graph(
        num_classes=num_classes_of(logits), sigma=sigma, check_image=not takes_uint8(logits)
    )
    return _with_certificate(with_network_prefix(logits), certificate)


def _with_certificate(network: onnx.ModelProto, certificate: onnx.GraphProto) -> onnx.ModelProto:
    """Let the certificate's outputs take the place of the network's, in place."""
    network.graph.node.extend(certificate.node)
    network.graph.initializer.extend(certificate.initializer)
    del network.graph.output[:]
    network.graph.output.extend(certificate.output)
    onnx.checker.check_model(network, full_check=True)
    return network


def proven_graph(logits: onnx.ModelProto, *, slack: float, temperature: float) -> onnx.ModelProto:
    """The served graph of a 1-Lipschitz network.

    Args:
        logits: to DOUBLE [N, K], on FP32 [N, C, H, W] in [0,1] or on UINT8 [N, H, W, C]; ‖f(x) − f(y)‖₂ ≤ ‖x − y‖₂.
        slack: what is taken off each radius; see `graph.proven`.
        temperature: T of the softmax, at most 1.
    """
    certificate = proven_certificate(
        num_classes=num_classes_of(logits), slack=slack, temperature=temperature, check_image=not takes_uint8(logits)
    )
    return _with_certificate(with_network_prefix(logits), certificate)


def with_map(certified: onnx.ModelProto, radius_map: RadiusMap, guard: Guard | None = None) -> onnx.ModelProto:
    """The same network and σ with the certified radii of `radius_map`, refused where `guard` refuses the image.

    The certificate is written anew, so that a graph of a former version gets all outputs of the contract.

    Raises:
        ValueError: not a certified graph, or not a map.
    """
    sigma, classes = served_sigma(certified.graph), served_classes(certified)
    certificate = certificate_graph(
        num_classes=classes, sigma=sigma, check_image=not takes_uint8(certified), guard=guard
    )
    initializers = {tensor.name: tensor for tensor in certificate.initializer}
    for tensor in map_tensors(radius_map, num_classes=classes):
        initializers[tensor.name].CopyFrom(tensor)
    for tensor in certified.graph.initializer:
        if tensor.name in SIGMA_CONSTANTS:  # as they are: σ in float32 does not give them back to the last digit
            initializers[tensor.name].CopyFrom(tensor)
    return _with_certificate(_network_of(certified), certificate)


def _network_of(certified: onnx.ModelProto) -> onnx.ModelProto:
    """What a certified graph computes `logits` with, without outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(certified)
    graph, wanted, kept = model.graph, {"logits"}, list[onnx.NodeProto]()
    for node in reversed(certified.graph.node):
        if wanted & {*node.output}:
            kept.append(node)
            wanted |= {*node.input}
    del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensor for tensor in certified.graph.initializer if tensor.name in wanted)
    return model


def served_classes(certified: onnx.ModelProto) -> int:
    """K, from the graph's output `probabilities` [N, K].

    Raises:
        ValueError: not a certified graph.
    """
    outputs = {output.name: output for output in certified.graph.output}
    if "probabilities" not in outputs:
        raise ValueError("expected an output 'probabilities': not a certified graph")
    return int(outputs["probabilities"].type.tensor_type.shape.dim[1].dim_value)


def num_classes_of(logits: onnx.ModelProto) -> int:
    """K, from the graph's output `logits` [N, K]."""
    return int(logits.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
