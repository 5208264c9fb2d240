"""A request to a model in the words of HTTP, as a message of gRPC; and the answer back.

The body is JSON, and behind it the tensors that JSON gives a `binary_data_size`; the header `Inference-Header-Content-
Length` says where JSON ends (docs of the Open Inference Protocol, and Triton's extension for binary tensors).
Everything is checked here by what the model takes, so that no request that Triton could stumble over reaches it. Of a
key that JSON has twice the last one counts, here and nowhere else: Triton gets a message of ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import orjson
from tritonclient.grpc import service_pb2 as pb

from heatserve.serving.client.messages import JSON_LENGTH
from heatserve.serving.front.models import JSON_HEADER_BYTES, ModelRules
from heatserve.serving.front.refusals import JSON, FrontAnswer, invalid, shown
from heatserve.serving.front.tensors import checked_shape, checked_size, json_bytes, json_values

OCTETS = b"application/octet-stream"
JSON_LENGTH_HEADER = JSON_LENGTH.lower().encode()

_MOST_ID = 128
_MOST_PARAMETERS = 64
_MOST_NAME = 128
_PARAMETER_NAME = re.compile(rf"[\w.\-]{{1,{_MOST_NAME}}}", re.ASCII)
_MOST_CLASSES = 100_000
_INT64 = 2**63


class InferenceQuestion:
    """One request to a model, checked: the message for Triton, and which outputs are wanted as bytes."""

    __slots__ = ("_binary_by_name", "_is_binary", "message", "request_id")

    def __init__(self, rules: ModelRules, version: str, body: bytes, json_length: bytes | None) -> None:
        """Read and check it.

        Args:
            rules: of the model.
            version: of the model, as a number; empty: the newest.
            body: of the request.
            json_length: the header that says how much of it is JSON; None: all.

        Raises:
            Refusal: names what was expected and what came.
        """
        said, start = _read_json(body, json_length)
        self.request_id = checked_id(said.get("id"))
        self.message = pb.ModelInferRequest(model_name=rules.name, model_version=version, id=self.request_id)
        parameters = _mapping(said.get("parameters"), "parameters")
        self._is_binary = _truth(parameters.get("binary_data_output", False), "binary_data_output")
        for name, value in parameters.items():
            if name != "binary_data_output":
                set_parameter(self.message.parameters, name, value)
        self._add_inputs(rules, said.get("inputs"), body, start)
        self._binary_by_name = dict[str, bool]()
        self._add_outputs(rules, said.get("outputs"))

    def _add_inputs(self, rules: ModelRules, inputs: object, body: bytes, start: int) -> None:
        expected = ", ".join(rules.inputs)
        if not isinstance(inputs, list) or not 1 <= len(inputs) <= len(rules.inputs):
            raise invalid(f"inputs: expected a list with the input {expected}, got {shown(inputs)}")
        seen = set[str]()
        for tensor in inputs:
            tensor = _mapping(tensor, "inputs")
            name = tensor.get("name")
            rule = rules.inputs.get(name) if isinstance(name, str) else None
            if rule is None or rule.name in seen:
                raise invalid(f"inputs: expected the input {expected} once, got {shown(name)}")
            seen.add(rule.name)
            if tensor.get("datatype") != rule.datatype:
                raise invalid(f"{rule.name}: expected datatype {rule.datatype}, got {shown(tensor.get('datatype'))}")
            shape = checked_shape(rule, rules, tensor.get("shape"))
            parameters = _mapping(tensor.get("parameters"), f"parameters of {rule.name}")
            _check_names(parameters, ("binary_data_size",), f"parameters of {rule.name}")
            if ("binary_data_size" in parameters) == ("data" in tensor):
                raise invalid(f"{rule.name}: expected either data or binary_data_size, got {_both(tensor)}")
            if "data" in tensor:
                content = json_bytes(rule, shape, tensor["data"])
            else:
                size = checked_size(rule, shape, parameters["binary_data_size"])
                content = body[start : start + size]
                if len(content) < size:
                    raise invalid(f"{rule.name}: expected {size} bytes behind the JSON, got {len(content)}")
                start += size
            self.message.inputs.add(name=rule.name, datatype=rule.datatype, shape=shape)
            self.message.raw_input_contents.append(content)
        if start != len(body):
            raise invalid(f"body: expected no bytes behind the last tensor, got {len(body) - start}")
        if len(seen) < len(rules.inputs):
            raise invalid(f"inputs: expected the input {expected}, got no {', '.join({*rules.inputs} - seen)}")

    def _add_outputs(self, rules: ModelRules, outputs: object) -> None:
        if outputs is None:
            return
        if not isinstance(outputs, list) or len(outputs) > len(rules.outputs):
            raise invalid(f"outputs: expected a list of at most {len(rules.outputs)} outputs, got {shown(outputs)}")
        for output in outputs:
            output = _mapping(output, "outputs")
            name = output.get("name")
            if not isinstance(name, str) or name not in rules.outputs or name in self._binary_by_name:
                expected = ", ".join(sorted(rules.outputs))
                raise invalid(f"outputs: expected some of {expected}, each once, got {shown(name)}")
            parameters = _mapping(output.get("parameters"), f"parameters of {name}")
            _check_names(parameters, ("binary_data", "classification"), f"parameters of {name}")
            self._binary_by_name[name] = _truth(parameters.get("binary_data", self._is_binary), "binary_data")
            asked = self.message.outputs.add(name=name)
            if "classification" in parameters:
                classes = parameters["classification"]
                if type(classes) is not int or not 1 <= classes <= _MOST_CLASSES:
                    raise invalid(f"classification: expected a number from 1 to {_MOST_CLASSES}, got {shown(classes)}")
                asked.parameters["classification"].int64_param = classes

    def answer(self, response: pb.ModelInferResponse) -> FrontAnswer:
        """Triton's answer to the message, as this request wants it."""
        outputs, contents = [], []
        for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True):
            said: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": [*tensor.shape]}
            if self._binary_by_name.get(tensor.name, self._is_binary):
                said["parameters"] = {"binary_data_size": len(content)}
                contents.append(content)
            else:
                said["data"] = json_values(tensor.datatype, content)
            outputs.append(said)
        whole: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
        if self.request_id:
            whole["id"] = self.request_id
        if response.parameters:
            whole["parameters"] = {name: parameter_value(value) for name, value in response.parameters.items()}
        whole["outputs"] = outputs
        header = orjson.dumps(whole)
        if not contents:
            return FrontAnswer(200, header, JSON)
        return FrontAnswer(200, b"".join([header, *contents]), OCTETS, {JSON_LENGTH_HEADER: b"%d" % len(header)})


def read_object(content: bytes, what: str) -> dict[str, Any]:
    """A JSON object; NaN, infinities and numbers beyond float64 are none of JSON, and neither is deep nesting.

    Raises:
        Refusal: it is something else; says where.
    """
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise invalid(f"{what}: expected JSON, got something else: {error}") from None
    if not isinstance(found, dict):
        raise invalid(f"{what}: expected a JSON object, got {shown(found)}")
    return found


def checked_id(given: object) -> str:
    """The id of a request; empty where it has none.

    Raises:
        Refusal: it is no short printable text, and could change what a log says.
    """
    if given is None:
        return ""
    if not isinstance(given, str) or len(given) > _MOST_ID or not given.isprintable():
        raise invalid(f"id: expected printable text of at most {_MOST_ID} characters, got {shown(given)}")
    return given


def set_parameter(parameters: Any, name: str, value: object) -> None:
    """Add one parameter of a request to a message.

    Raises:
        Refusal: another name than of ASCII letters, digits, `_`, `.` and `-`; no text, truth value, whole number of 64
            bits or finite number; a NUL in it; or too many of them.
    """
    if len(parameters) >= _MOST_PARAMETERS or not _PARAMETER_NAME.fullmatch(name):
        raise invalid(
            f"parameters: expected at most {_MOST_PARAMETERS}, with names of 1 to {_MOST_NAME} letters, digits, _, . "
            f"and -, got {shown(name)} after {len(parameters)}"
        )
    if isinstance(value, str) and "\0" in value:  # Triton would read it up to there
        raise invalid(f"{shown(name)}: expected a parameter without the character NUL, got {shown(value)}")
    if isinstance(value, bool):
        parameters[name].bool_param = value
    elif isinstance(value, int) and -_INT64 <= value < _INT64:
        parameters[name].int64_param = value
    elif isinstance(value, float) and math.isfinite(value):
        parameters[name].double_param = value
    elif isinstance(value, str):
        parameters[name].string_param = value
    else:
        raise invalid(f"{shown(name)}: expected a parameter that is text, true, false or a number, got {shown(value)}")


def parameter_value(parameter: Any) -> Any:
    """The value of a parameter of a message."""
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _read_json(body: bytes, json_length: bytes | None) -> tuple[dict[str, Any], int]:
    """The JSON of a body, and where it ends."""
    if json_length is None:
        return read_object(body, "body"), len(body)
    length = int(json_length) if json_length.isdigit() and len(json_length) < 10 else -1
    if not 0 < length <= min(len(body), JSON_HEADER_BYTES):
        raise invalid(
            f"{JSON_LENGTH}: expected a number from 1 to {min(len(body), JSON_HEADER_BYTES)}, the bytes "
            f"of JSON in this body, got {shown(json_length.decode('latin-1'))}"
        )
    return read_object(body[:length], "body"), length


def _mapping(value: object, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"{name}: expected a JSON object, got {shown(value)}")
    return value


def _truth(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise invalid(f"{name}: expected true or false, got {shown(value)}")
    return value


def _check_names(parameters: Mapping[str, object], known: tuple[str, ...], what: str) -> None:
    for name in parameters:
        if name not in known:
            raise invalid(f"{what}: expected none but {', '.join(known)}, got {shown(name)}")


def _both(tensor: Mapping[str, object]) -> str:
    return "both" if "data" in tensor else "neither"
