"""Reading somebody's ONNX file, who may mean harm, as one message: opset 18, without functions and external files.

What would have to be trusted is refused: files outside of the model's folder, operators that only a library of their
author has, computations of which nobody knows how long they take, and answers that depend on chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import NodeProto, TensorProto, inliner, numpy_helper

from heatserve.export.graph.build import IR_VERSION, OPSET
from heatserve.export.graph.imported.errors import OnnxFileError, node_in_words, quoted

LARGEST_BYTES = 2**31 - 1
"""Of a model with its external data: one ONNX file, which the served graph is, holds no more."""
LARGEST_NODES = 100_000
"""Of a model whose functions are written out."""
_DEEPEST_CALLS = 50
CLASSICAL = "ai.onnx.ml"
"""The domain of scikit-learn's operators: trees, linear classifiers, scalers."""
_DOMAINS = ("", "ai.onnx", CLASSICAL)
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model in a file with its external data, operators of ONNX and of `ai.onnx.ml` only, checked; as it came.

    Raises:
        OnnxFileError: no such file, no ONNX, or a model that is refused; says where and why.
    """
    model = _parsed(path)
    _check_nodes(path, model)
    _check_calls(path, model)
    if model.functions:
        model = _inlined(path, model)
    _take_external_data(path, model)
    _check_constants(path, model)
    _remove_remarks(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]  # formerly they were among them
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    _tidy_versions(path, model)
    _check(path, model)
    return model


def _parsed(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise OnnxFileError(f"{path}: expected an ONNX file, found {'none' if not path.exists() else 'no file'}")
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise OnnxFileError(f"{path}: expected at most {LARGEST_BYTES} bytes, got {size}")
    model, content = onnx.ModelProto(), path.read_bytes()
    try:
        model.ParseFromString(content)
    except DecodeError:
        if content.startswith((b"PK", b"\x80")):
            raise OnnxFileError(
                f"{path}: not an ONNX file, torch.save wrote it: import its weights with `heatserve import-weights`"
            ) from None
        raise OnnxFileError(f"{path}: truncated or not an ONNX file") from None
    if not model.graph.node or not model.opset_import:
        raise OnnxFileError(
            f"{path}: expected an ONNX model, found one without {'opset' if model.graph.node else 'nodes'}"
        )
    return model


def _check_calls(path: Path, model: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, or that are too many nodes or bytes when they are written out."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    sizes = dict[tuple[str, str], tuple[int, int]]()

    def size(nodes: Iterator[NodeProto], depth: int) -> tuple[int, int]:
        if depth > _DEEPEST_CALLS:
            raise OnnxFileError(f"{path}: expected functions that do not call themselves, found calls without an end")
        count = length = 0
        for node in nodes:
            key = node.domain, node.op_type
            if key in bodies and key not in sizes:
                sizes[key] = size(iter(bodies[key]), depth + 1)
            of_node = sizes.get(key) or (1, node.ByteSize())
            count, length = count + of_node[0], length + of_node[1]
        return count, length

    nodes, length = size(iter(model.graph.node), 0)
    if nodes > LARGEST_NODES:
        raise OnnxFileError(f"{path}: expected at most {LARGEST_NODES} nodes, got {nodes}")
    if length > LARGEST_BYTES:
        raise OnnxFileError(
            f"{path}: expected nodes of at most {LARGEST_BYTES} bytes, with those of functions at each call, got "
            f"{length}"
        )


def _inlined(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise OnnxFileError(f"{path}: its functions cannot be written out: {_first_line(error)}") from None


def _check_nodes(path: Path, model: onnx.ModelProto) -> None:
    """Refuse what is not a computation of known length, by known operators, of the same numbers each time."""
    if model.graph.sparse_initializer:
        raise OnnxFileError(f"{path}: expected dense weights, found sparse initializers")
    functions = {(function.domain, function.name) for function in model.functions}
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        attributes = {attribute.name: attribute for attribute in node.attribute}
        reason = None
        if node.domain not in _DOMAINS and (node.domain, node.op_type) not in functions:
            reason = (
                f"expected operators of ONNX itself or of {CLASSICAL}, got one of a library of its own; export without "
                "the optimisations of an engine, and without custom operators"
            )
        elif any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            reason = "expected a network without branches and loops, whose cost nobody knows beforehand"
        elif any(attribute.HasField("sparse_tensor") or attribute.sparse_tensors for attribute in node.attribute):
            reason = "expected dense weights, found sparse ones"
        elif node.op_type in _RANDOM:
            reason = "expected the same answer to the same image each time, found one that depends on chance"
        elif node.op_type == "BatchNormalization" and "training_mode" in attributes and attributes["training_mode"].i:
            reason = "expected a network for inference, found one in training mode; export it in evaluation mode"
        if reason:
            raise OnnxFileError(f"{path}: {node_in_words(node)}: {reason}")


def _tensors(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """All constants of a model without functions and subgraphs, each with what it is called in a sentence."""
    for tensor in model.graph.initializer:
        yield f"tensor {quoted(tensor.name)}", tensor
    for node in model.graph.node:
        for attribute in node.attribute:
            for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
                yield node_in_words(node), tensor


def _take_external_data(path: Path, model: onnx.ModelProto) -> None:
    """Read the tensors that are in files beside the model into it."""
    total = model.ByteSize()
    for named, tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        fields = {entry.key: entry.value for entry in tensor.external_data}
        try:
            file = _beside(path, fields.get("location", ""))
            offset = int(fields.get("offset", 0))
            length = int(fields.get("length", file.stat().st_size - offset))
        except (OSError, ValueError) as error:
            raise OnnxFileError(f"{path}: {named}: its external data cannot be read: {error}") from None
        total += length
        if offset < 0 or length < 0 or offset + length > file.stat().st_size or total > LARGEST_BYTES:
            raise OnnxFileError(
                f"{path}: {named}: expected external data within {file.name}, and at most {LARGEST_BYTES} bytes in "
                f"all, got {length} from {offset}"
            )
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _beside(path: Path, location: str) -> Path:
    """The file of external data, which lies in the folder of the model or below, whatever links are there."""
    relative = Path(location)
    if not location or relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"expected a path within the model's folder, got {location!r}")
    folder = path.parent
    for part in relative.parts:
        folder = folder / part
        if folder.is_symlink():
            raise ValueError(f"expected no symbolic link, got {location!r}")
    if not folder.is_file():
        raise ValueError(f"expected the file {location!r} beside the model, found none")
    return folder


def _check_constants(path: Path, model: onnx.ModelProto) -> None:
    """Refuse tensors that are not as long as they say, and NaN."""
    for named, tensor in _tensors(model):
        try:
            values = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:  # a KeyError: no known type
            raise OnnxFileError(f"{path}: {named}: not a tensor as its shape says: {_first_line(error)}") from None
        if tensor.data_type in _FLOATS and np.isnan(values.astype(np.float64, copy=False)).any():
            raise OnnxFileError(f"{path}: {named}: expected numbers, found NaN")
    for node in model.graph.node:
        for attribute in node.attribute:
            if np.isnan([attribute.f, *attribute.floats]).any():
                raise OnnxFileError(f"{path}: {node_in_words(node)}: expected numbers, found NaN in {attribute.name!r}")


def _remove_remarks(model: onnx.ModelProto) -> None:
    """Remove what says where and by whom a model was made, and shapes that may speak of another batch."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:], graph.quantization_annotation[:]
    for field in ("doc_string", "domain", "model_version"):
        model.ClearField(field)
    graph.ClearField("doc_string")
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for _, tensor in _tensors(model):
        tensor.ClearField("doc_string")
    for value in (*graph.input, *graph.output):
        value.ClearField("doc_string")


def _tidy_versions(path: Path, model: onnx.ModelProto) -> None:
    """Name each opset that is used once, and a version of the format that has constants which are no inputs."""
    versions = {"" if opset.domain == "ai.onnx" else opset.domain: opset.version for opset in model.opset_import}
    version, newest = versions.get("", OPSET), onnx.defs.onnx_opset_version()
    if not 1 <= version <= newest:
        raise OnnxFileError(f"{path}: expected an opset from 1 to {newest}, got {version}")
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", version))
    if any(node.domain == CLASSICAL for node in model.graph.node):
        model.opset_import.append(onnx.helper.make_opsetid(CLASSICAL, versions.get(CLASSICAL, 1)))
    model.ir_version = max(model.ir_version, IR_VERSION)


def _check(path: Path, model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise OnnxFileError(f"{path}: not a valid model: {' '.join(str(error).split())[:500]}") from None


def _first_line(error: Exception) -> str:
    """What an error of a library says, without the stack that some of them append."""
    return next(iter(str(error).splitlines()), type(error).__name__)
