"""`python -m heatserve.export.graph.imported.conversion MODEL OUT`: a model of any opset in opset 18.

ONNX converts in C++, which some graphs that somebody made bring down: so it is done in a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import inliner, version_converter

from heatserve.export.graph.build import IR_VERSION, OPSET
from heatserve.export.graph.imported.errors import OnnxFileError
from heatserve.export.graph.imported.own_process import bound_memory, run_by_itself
from heatserve.export.graph.imported.reading import CLASSICAL


def converted(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that was read, in opset 18 and our version of the format; newer operators are written out in older ones.

    Raises:
        OnnxFileError: ONNX cannot convert one of its operators, or crashes on it.
    """
    version = model.opset_import[0].version
    if version == OPSET:
        return _of_our_versions(model)
    with TemporaryDirectory(prefix="heatserve-onnx-") as folder:
        given, out = (Path(folder) / name for name in ("model.onnx", "converted.onnx"))
        onnx.save(model, given)
        said = run_by_itself(path, __name__, [given, out], folder=folder)
        if out.exists():
            model = onnx.load(out)
        if said is None:
            return _of_our_versions(model)
    if version > OPSET and _is_older(model):
        return _of_our_versions(model)
    raise OnnxFileError(f"{path}: opset {version} cannot be converted to {OPSET}: {said}; export it with opset {OPSET}")


def _of_our_versions(model: onnx.ModelProto) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.ir_version = IR_VERSION
    result.opset_import[0].version = OPSET
    return result


def _is_older(model: onnx.ModelProto) -> bool:
    """Whether all operators and attributes of a model are in opset 18 too, for which ONNX has few converters downwards.

    That they mean the same there is seen by comparing answers.
    """
    try:
        onnx.checker.check_model(_of_our_versions(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _newer(model: onnx.ModelProto) -> set[str]:
    """Operators of a model that opset 18 does not have."""

    def is_newer(operator: str) -> bool:
        try:
            onnx.defs.get_schema(operator, OPSET, "")
        except onnx.defs.SchemaError:
            return True
        return False

    return {node.op_type for node in model.graph.node if node.domain != CLASSICAL and is_newer(node.op_type)}


def main(arguments: list[str]) -> None:
    """Convert a file; what ONNX says against it goes to stderr."""
    given, out = map(Path, arguments)
    bound_memory(given)
    model = onnx.load(given)
    newer = [("", operator) for operator in sorted(_newer(model))]
    try:
        if newer:
            model = inliner.inline_selected_functions(model, newer, inline_schema_functions=True)
            onnx.save(model, out)  # what is left of it where no converter is known
        onnx.save(version_converter.convert_version(model, OPSET), out)
    except (RuntimeError, ValueError) as error:
        sys.exit(next(iter(str(error).splitlines()), type(error).__name__))


if __name__ == "__main__":
    main(sys.argv[1:])
