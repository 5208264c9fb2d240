"""From a torch network to ONNX by torch's exporter, and why some networks cannot become a graph.

torch's exporter runs the network once on symbols and writes down what is computed. So it keeps one side of a branch,
and what is a number while it runs stays that number. It writes some networks without a word that a served graph cannot
be: those with several outputs, with complex logits, or for one size of batch only. They are refused here, by name.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx

from heatserve.certification.errors import HeatserveError
from heatserve.certification.interrupts import passing_interrupts
from heatserve.export.graph.names import subgraphs

if TYPE_CHECKING:
    from torch import Tensor, nn

_EXAMPLES = 2
_LARGEST_GRAPH = 2**31 - 2**24
"""Bytes of weights that a graph in one file can hold: ONNX's format ends at 2 GiB, and operators need some of it."""

_CONTROL_FLOW = (
    "its forward branches, loops or indexes by a number that is computed from the pixels, and a graph has one path; "
    "compute both sides and choose with torch.where"
)
_FIXED_BATCH = (
    "its forward works for the batch of its example only: it has the number of images as a constant, branches on it or "
    "loops over the images; write reshape(x.shape[0], …) or flatten(1), and compute all images at once"
)


class NotExportableError(HeatserveError):
    """A network that no graph can be, or whose graph answers otherwise; says what in it is the reason."""


def traced(network: nn.Module, *, input_shape: tuple[int, int, int], opset: int) -> onnx.ModelProto:
    """`image` FP32 [N, C, H, W] in [0,1] → `logits` FP32 [N, K], as torch's exporter writes it, N dynamic.

    Args:
        network: takes and returns what the graph does; put into eval mode.
        input_shape: C, H, W.
        opset: of ONNX's default domain.

    Raises:
        NotExportableError: more weights than a graph can hold; an answer that is not one real tensor [N, K]; control
            flow on pixels or on the size of the batch; an operator that ONNX lacks.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    _check_size(network)
    example = torch.zeros(_EXAMPLES, *input_shape)
    classes = _classes_of(network.eval(), example)
    try:
        # One kernel of attention for every machine, whose layout in memory torch's exporter can follow; another one
        # made it fail on MaxViT.
        with passing_interrupts(), _silence(), sdpa_kernel(SDPBackend.MATH):
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                verbose=False,
            )
    except Exception as error:  # torch's exporter raises errors of many classes, without a public base class
        raise NotExportableError(f"network: torch cannot write it as a graph: {_reason(error)}") from None
    assert program is not None  # only without dynamo
    model: onnx.ModelProto = program.model_proto
    _check_graph(model, classes)
    return model


def _check_size(network: nn.Module) -> None:
    held = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    if held > _LARGEST_GRAPH:
        raise NotExportableError(
            f"network: expected at most {_LARGEST_GRAPH / 2**30:.2f} GiB of weights, all that one graph can hold, got "
            f"{held / 2**30:.2f} GiB"
        )


def answer_of(network: nn.Module, images: Tensor) -> Any:
    """What the network returns for images [N, C, H, W], without gradients.

    Raises:
        NotExportableError: it raises an error; says which.
    """
    import torch

    try:
        with torch.no_grad():
            return network(images)
    except Exception as error:  # of somebody's code
        raise NotExportableError(
            f"network: expected logits for images of shape {list(images.shape)}, but its forward fails: "
            f"{type(error).__name__}: {error}"
        ) from None


def _classes_of(network: nn.Module, example: Tensor) -> int:
    """K, from what the network answers to an example."""
    import torch

    answer = answer_of(network, example)
    if not isinstance(answer, torch.Tensor):
        raise NotExportableError(
            f"network: expected one tensor of logits [N, K], got {_described(answer)}; return the logits alone"
        )
    if answer.dim() != 2 or len(answer) != _EXAMPLES or answer.shape[1] < 2 or answer.dtype != torch.float32:
        raise NotExportableError(
            f"network: expected logits float32 [N, K] with K of at least 2 for N = {_EXAMPLES} images, got "
            f"{_described(answer)}"
        )
    return int(answer.shape[1])


def _described(answer: object) -> str:
    """What a network returned, in a few words."""
    import torch

    if isinstance(answer, torch.Tensor):
        return f"{str(answer.dtype).removeprefix('torch.')} {list(answer.shape)}"
    kind = type(answer).__name__
    if isinstance(answer, Mapping):
        return f"{kind} with {', '.join(f'{key}: {_described(value)}' for key, value in answer.items())}"
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return f"{kind} of {len(answer)}: {', '.join(map(_described, answer))}"
    return kind


def _reason(error: BaseException) -> str:
    """What in the network torch's exporter could not write, from the error at the bottom of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", text)
    if operator:
        return f"ONNX has no operator for {operator[1]}; compute it in another way"
    at = _place(text)
    if "data-dependent" in text:
        return _CONTROL_FLOW + at
    if "Constraints violated" in text or "specialized" in text:
        return _FIXED_BATCH + at
    return f"{type(error).__name__}: {text.strip().splitlines()[0] if text.strip() else 'it does not say why'}{at}"


def _place(text: str) -> str:
    """Where in the user's code an error of torch's exporter arose, as far as it says; file names without folders."""
    line = re.search(r'File "(?:[^"\n]*/)?([^"\n/]+)", line (\d+), in \w+\n +(.+)', text)
    if line:
        return f" ({line[1]}, line {line[2]}: {line[3].strip()})"
    cause = re.search(r"Caused by: \((?!_export/)(?:[^)\n]*/)?([^)\n/]+):(\d+) in \w+\)", text)
    return f" ({cause[1]}, line {cause[2]})" if cause else ""


def _check_graph(model: onnx.ModelProto, classes: int) -> None:
    """Refuse a graph for one batch, or with operators of other domains; state the shape of its output."""
    (image,), (logits,) = model.graph.input, model.graph.output
    batch = image.type.tensor_type.shape.dim[0]
    if not batch.dim_param:
        raise NotExportableError(f"network: {_FIXED_BATCH}")
    foreign = sorted(
        f"{node.domain}::{node.op_type}" for graph in subgraphs(model.graph) for node in graph.node if node.domain
    )
    if foreign:
        raise NotExportableError(f"network: expected operators of ONNX only, got {foreign[0]}")
    shape: list[str | int | None] = [batch.dim_param, classes]
    logits.CopyFrom(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the remarks of torch's exporter about itself from stdout, stderr and the log."""
    disabled = logging.root.manager.disable
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
