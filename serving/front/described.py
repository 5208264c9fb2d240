"""Messages of Triton as JSON in the protocol's own words: whole numbers as numbers, and what has no value left in."""

from __future__ import annotations

from typing import Any


def as_json(message: Any) -> dict[str, Any]:
    """A message as JSON has it, with the names of the protocol; fields without a value have that of their type."""
    from google.protobuf.json_format import MessageToDict

    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _number(found, message.DESCRIPTOR)
    return found


def _number(found: dict[str, Any], descriptor: Any) -> None:
    """Have the whole numbers of 64 bits, which protobuf writes as text, be numbers."""
    for field in descriptor.fields:
        if field.name not in found:
            continue
        value = found[field.name]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name["value"]
            found[field.name] = {name: _one(one, entry) for name, one in value.items()}
        elif isinstance(value, list):
            found[field.name] = [_one(one, field) for one in value]
        else:
            found[field.name] = _one(value, field)


def _one(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        if isinstance(value, dict):
            _number(value, field.message_type)
        return value
    is_integer = field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64)
    return int(value) if is_integer and isinstance(value, str) else value
