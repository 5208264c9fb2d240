"""Mutations of JSON and of bytes, drawn from a random number generator that can be made again."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

_MARK = "@@mutated@@"
_VALUES = (
    *("null", "true", "0", "-1", "1", "2", "1.5", "-0.0", "1e400", "1e-400", "NaN", "-Infinity", "2147483648"),
    *("4294967296", "9223372036854775807", "18446744073709551616", "1" * 400, "0." + "3" * 2000),
    *("[]", "{}", "[[]]", '[""]', "[null]", "[1,1,8,8]", "[-1,1,8,8]", "[0,1,8,8]", "[1,1,64]", "[64]"),
    *("[4294967296,1,8,8]", "[1,4294967296,4294967296,8]", "[1,1,8,8,1]", "[1.0,1,8,8]", '["1",1,8,8]'),
    *('""', '"\\u0000"', '"\\ud800"', '"../../etc"', '"FP64"', '"BYTES"', '"UINT8"', '"image"', '"label"', '"1"'),
    *('"' + "a" * 20_000 + '"', "[" * 200 + "]" * 200, '{"a":' * 3_000 + "1" + "}" * 3_000, "[" * 90_000),
)
_KEYS = ("", "name", "datatype", "shape", "data", "parameters", "binary_data_size", "classification", "id", "é", "\0")
_BYTES = (b"\0", b"\xff", b'"', b"[", b"]", b"{", b"}", b",", b":", b"\\", b"-", b"e", b"9", b"\xc3", b"\r\n", b" ")


def mutate_json(document: Any, random: Random) -> bytes:
    """The text of a JSON document in which one to three places are other than they were; it need not be JSON then."""
    replaced: list[str] = []
    changed = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        _mutate_container(random.choice(_containers(changed) or [{"": None}]), random, replaced)
    text = json.dumps(changed)
    for value in replaced:
        text = text.replace(f'"{_MARK}"', value, 1)
    return text.encode()


def mutate_bytes(content: bytes, random: Random) -> bytes:
    """Bytes in which one to four places were flipped, cut out, doubled or added to."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed) + 1)
        length = min(len(changed) - at, random.choice((1, 1, 2, 8, 64, 1024)))
        match random.randrange(5):
            case 0 if length:
                changed[at] ^= 1 << random.randrange(8)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length]
            case 3:
                changed[at:at] = random.choice(_BYTES) * random.choice((1, 1, 3, 500))
            case _:
                del changed[at if random.random() < 0.2 else len(changed) :]
    return bytes(changed)


def _containers(node: Any) -> list[Any]:
    """All objects and lists of a document that hold something; a list of numbers counts once."""
    if not isinstance(node, (dict, list)) or not node:
        return []
    children = node.values() if isinstance(node, dict) else node
    return [node, *(found for child in children for found in _containers(child))]


def _mutate_container(container: Any, random: Random, replaced: list[str]) -> None:
    """Change one place, in place; `replaced` gets the text that is to stand for a mark."""
    key = random.choice([*container]) if isinstance(container, dict) else random.randrange(len(container))
    match random.randrange(6):
        case 0:
            del container[key]
            return
        case 1 if isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
            return
        case 1:
            container[random.choice(_KEYS)] = container.pop(key)
            return
        case 2 if isinstance(container, dict):
            key = random.choice(_KEYS)
        case 3 if isinstance(container[key], (int, float)):
            container[key] = container[key] * random.choice((-1, 0, 2, 1.0000001, 1e30)) + random.choice((0, 1, -1e-9))
            return
        case _:
            pass
    container[key] = _MARK
    replaced.append(random.choice(_VALUES))
