"""A `heatserve` that starts at once, for the code blocks of the pages: `python quick_heatserve.py FOLDER`.

It has imported what commands need, listens at FOLDER/heatserve.socket, and forks a process for each command. The
program `heatserve` that it leaves in FOLDER hands its arguments and descriptors over. Commands do as always, but for
these:

- `cifar_resnet20` and `lipschitz_xs` are networks of a few weights, as the folder DATA has few images;
- `heatserve serve` verifies what it would serve and its settings, and ends: one server answers all pages;
- `heatserve playground` ends once its page was answered, about a server that is there;
- a training with the same arguments as an earlier one is not made again.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

PRELOADED = (
    "heatserve.cli",
    "heatserve.training",
    "heatserve.training.weights",
    "heatserve.export.exporting",
    "heatserve.export.calibration.calibrate",
    "heatserve.export.audit.audit",
    "onnxscript",
    "onnxruntime",
    "torch.onnx._internal.exporter._core",
)
SHORTER = {
    "attack": "--images 2 --steps 2 --noise-samples 4 --epsilon 0.25",
    "attack-tiers": "--images 2 --steps 2 --samples 2 --asks 4 --epsilon 0.25 --radius 0.125",
    "audit digits": "--images 110",
    "calibrate": "--n 200 --n0 20 --other-images 1",
    "certify-dataset": "--n 100 --images 40",
    "conformance": "--examples 1 --engine onnxruntime",
    "playground": "--port 0 --no-open",
    "train baseline --data digits": "--epochs 1",
    "train baseline": "--epochs 4",
    "train lipschitz": "--epochs 1",
}
"""Options besides those of a page, so that a command takes a moment, by its first words."""
LONGEST = 600
"""Seconds after which a command is ended: what takes longer is not for these tests."""
PROGRAM = """\
#!{python} -IS
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(connection, [len(said).to_bytes(8, "big")], [0, 1, 2])
connection.sendall(said)
sys.exit(int(connection.recv(16) or b"70"))
"""


def main(folder: Path) -> None:
    """Answer commands until the process is ended."""
    for name in PRELOADED:
        import_module(name)
    stand_in()
    warm_exporter()
    address = folder / "heatserve.socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        program = folder / "heatserve"
        program.write_text(PROGRAM.format(python=sys.executable, address=str(address)))
        program.chmod(0o755)
        print("ready", flush=True)
        done: set[str] = set()
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"%d" % answer(connection, done))


def answer(connection: socket.socket, done: set[str]) -> int:
    """Run the command of a connection; its exit code."""
    header, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
    length, said = int.from_bytes(header, "big"), b""
    while len(said) < length:
        said += connection.recv(length - len(said))
    arguments, folder, environment = json.loads(said)
    try:
        training = json.dumps([arguments, folder])
        if training in done:
            return 0
        process = os.fork()
        if process == 0:
            run(arguments, folder, environment, descriptors)
        _, status, used = os.wait4(process, 0)
        print(f"CPU {used.ru_utime + used.ru_stime:5.1f} {' '.join(arguments)[:80]}", file=sys.stderr, flush=True)
        code = os.waitstatus_to_exitcode(status)
        if arguments[0] == "train" and code == 0:
            done.add(training)
        return code
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def run(arguments: list[str], folder: str, environment: dict[str, str], descriptors: list[int]) -> None:
    """Be the command, and end with its exit code."""
    code = 70
    signal.alarm(LONGEST)  # ends this process
    try:
        for stream, descriptor in enumerate(descriptors):
            os.dup2(descriptor, stream)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["heatserve", *arguments, *shorter(arguments)]
        import_module("heatserve.cli").main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def shorter(arguments: list[str]) -> list[str]:
    """Options that make the command short."""
    return next(
        (
            shlex.split(options)
            for words, options in SHORTER.items()
            if arguments[: len(words.split())] == words.split()
        ),
        [],
    )


def stand_in() -> None:
    """Put the small networks and the short `serve` in the place of the long ones."""
    import torch
    from torch import nn

    from heatserve.commands import serve
    from heatserve.playground import serving
    from heatserve.training.architectures.builtin import ARCHITECTURES
    from heatserve.training.architectures.lipschitz import lipschitz_network

    def small(num_classes: int, channels: int) -> nn.Module:
        convolution = nn.Conv2d(channels, 16, 8, stride=8)
        pooled = nn.AdaptiveAvgPool2d(4)  # 4×4 already, of an image of 32×32
        return nn.Sequential(convolution, nn.ReLU(), pooled, nn.Flatten(), nn.Linear(256, num_classes))

    torch.set_num_threads(1)
    ARCHITECTURES["cifar_resnet20"] = small
    ARCHITECTURES["lipschitz_xs"] = lipschitz_network(4, 3, 32)
    serve.run_server = verify_served  # type: ignore[assignment]
    serving.serve_playground = partial(until_visited, serving.serve_playground)


def warm_exporter() -> None:
    """Export a network, so that each command finds torch's exporter ready, which takes it seconds to be."""
    from heatserve.export.graph.tracing import traced
    from heatserve.training.architectures.builtin import ARCHITECTURES

    traced(ARCHITECTURES["cifar_resnet20"](2, 3), input_shape=(3, 32, 32), opset=18)


def verify_served(console: Any, server: Any, **_: Any) -> None:
    """All that `heatserve serve` verifies before it starts anything, and the table of models that it prints."""
    import tempfile

    from heatserve.serving.triton.opening import verified_models
    from heatserve.tables import models_table

    server._front_options.check()
    with tempfile.TemporaryDirectory() as folder:
        models = verified_models(server.repository, server._names, {}, trust=server._trust, folder=Path(folder))
        console.print(models_table(models))


def until_visited(
    serve_playground: Callable[..., None], *given: Any, on_ready: Callable[[str], None], **named: Any
) -> None:
    """Serve the playground as always, until its page was answered and told that the server is there."""
    seen = list[bool]()

    def visit(address: str) -> None:
        try:
            with urlopen(address, timeout=LONGEST / 2) as page, urlopen(f"{address}api/server") as events:
                states = (line for line in events if line.startswith(b"data: "))
                is_there = any(json.loads(line[6:])["is_there"] for line in islice(states, 2))  # at first not asked yet
                seen.append(page.status == 200 and is_there)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def say_and_visit(address: str) -> None:
        on_ready(address)
        Thread(target=visit, args=[address]).start()

    with suppress(KeyboardInterrupt):
        serve_playground(*given, on_ready=say_and_visit, **named)
    assert seen == [True], "the page was not answered, or is about no server"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
