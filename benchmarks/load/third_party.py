"""Another load generator, `wrk` or `hey`, on the same HTTP request, to check ours by. Nothing here requires either.

By hand, with BODY and its number of JSON bytes J as `LoadRequest.first_http` has them:

    hey -z 10s -c 8 -m POST -T application/octet-stream -H "Inference-Header-Content-Length: J" -D BODY URL
    wrk -t 1 -c 8 -d 10s -s request.lua URL
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from heatserve.benchmarks.wire import HttpMessage
from heatserve.certification.errors import HeatserveError

_SLACK_SECONDS = 60.0
_LUA = """\
wrk.method = "POST"
local file = assert(io.open("body", "rb"))
wrk.body = file:read("*a")
file:close()
"""


@dataclass(frozen=True)
class ThirdPartyRun:
    """What a generator said."""

    requests_per_second: float
    command: str
    version: str
    """Empty where it does not say."""


def check_third_party(name: str) -> None:
    """Do nothing where a generator is known and installed.

    Raises:
        HeatserveError: it is not.
    """
    if name not in _COMMANDS:
        raise HeatserveError(f"third-party: expected one of {', '.join(_COMMANDS)}, got {name}")
    if shutil.which(name) is None:
        raise HeatserveError(f"{name}: expected it on PATH, found none; on Debian: apt install {name}")


def run_third_party(name: str, message: HttpMessage, url: str, *, callers: int, seconds: float) -> ThirdPartyRun:
    """Have a generator send one request over and over.

    Args:
        name: `wrk` or `hey`.
        message: the request.
        url: of the server, `http://host:port`.
        callers: connections.
        seconds: how long; at least 1, and wrk takes whole ones.

    Raises:
        HeatserveError: it failed, or the server answered an error.
    """
    with TemporaryDirectory(prefix="heatserve-load-") as folder:
        (Path(folder) / "body").write_bytes(message.body)
        lines = [f'wrk.headers["{header}"] = "{value}"\n' for header, value in message.headers]
        (Path(folder) / "request.lua").write_text(_LUA + "".join(lines))
        command = [*_COMMANDS[name](message, callers, max(1, round(seconds))), url + message.target]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=seconds + _SLACK_SECONDS
        )
    said = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    failed = re.search(r"Non-2xx or 3xx responses: \d+|\[[345]\d\d\]\s+\d+ responses|Error distribution", done.stdout)
    if done.returncode or said is None or failed:
        found = failed[0] if failed else (done.stderr or done.stdout).strip()[-200:]
        raise HeatserveError(f"{name}: expected answers of status 200, found: {found}")
    return ThirdPartyRun(float(said[1]), shlex.join(command[:-1]), _version(name))


def _wrk(_: HttpMessage, callers: int, seconds: int) -> list[str]:
    return ["wrk", "-t", "1", "-c", str(callers), "-d", f"{seconds}s", "-s", "request.lua"]


def _hey(message: HttpMessage, callers: int, seconds: int) -> list[str]:
    (_, content_type), (header, value) = message.headers
    start = ["hey", "-z", f"{seconds}s", "-c", str(callers), "-m", "POST", "-T", content_type]
    return [*start, "-H", f"{header}: {value}", "-D", "body"]


_COMMANDS: Mapping[str, Callable[[HttpMessage, int, int], list[str]]] = MappingProxyType({"wrk": _wrk, "hey": _hey})


def _version(name: str) -> str:
    """What it says of itself; hey says nothing."""
    said = subprocess.run([name, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\w.+-]*", said.stdout.partition("\n")[0])
    return found[0] if found and name == "wrk" else ""
