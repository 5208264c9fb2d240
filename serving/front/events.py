"""A request that is answered several times: an image as a flat list, and server-sent events."""

from __future__ import annotations

from typing import Any

import orjson
from tritonclient.grpc import service_pb2 as pb

from heatserve.serving.front.inference import checked_id, read_object, set_parameter
from heatserve.serving.front.models import ModelRules
from heatserve.serving.front.refusals import invalid
from heatserve.serving.front.tensors import json_bytes, json_values

EVENTS = b"text/event-stream"


def stream_message(rules: ModelRules, version: str, body: bytes) -> pb.ModelInferRequest:
    """The message of a request: JSON with a list for each input; `id` is its id, each other key is a parameter.

    Raises:
        Refusal: names what was expected and what came.
    """
    said = read_object(body, "body")
    message = pb.ModelInferRequest(model_name=rules.name, model_version=version, id=checked_id(said.pop("id", None)))
    for rule in rules.inputs.values():
        if rule.name not in said:
            raise invalid(f"{rule.name}: expected a list of its values, got none")
        if -1 in rule.dims:
            raise invalid(f"{rule.name}: expected a request over gRPC, since this model takes pictures of any size")
        shape = [*([1] if rules.is_batched else []), *rule.dims]
        message.inputs.add(name=rule.name, datatype=rule.datatype, shape=shape)
        message.raw_input_contents.append(json_bytes(rule, shape, said.pop(rule.name)))
    for name, value in said.items():
        set_parameter(message.parameters, name, value)
    return message


def event(response: pb.ModelInferResponse) -> bytes:
    """One answer as an event: a number for each output, or a list where it has several."""
    said: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True):
        values = json_values(tensor.datatype, content)
        said[tensor.name] = values[0] if len(values) == 1 else values
    return b"data: %b\n\n" % orjson.dumps(said)
