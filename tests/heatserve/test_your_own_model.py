"""The page docs/guide/your-own-model.md, as a reader follows it: its files are written, its commands run."""

from __future__ import annotations

import glob
import json
import multiprocessing
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from heatserve import Client, ServingError
from heatserve.export.repository.layout import open_model
from heatserve.training import load_checkpoint

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "your-own-model.md"
COLOURS = {"cave": ((30, 20, 20), (220, 210, 190)), "forest": ((40, 150, 50), (30, 120, 30))}
COLOURS["lake"] = COLOURS["cave"][::-1]
"""Of each class, above and below the horizon. A lake is a cave upside down, so that orientation matters."""
PRELOADED = [
    "heatserve.training",
    "heatserve.training.weights",
    "heatserve.export.exporting",
    "onnxscript",
    "onnxruntime",
    "torch.onnx._internal.exporter._core",
]
"""What most commands import. Each runs in a process of its own that is forked from one which has imported these."""


def photograph(name: str, random: np.random.Generator) -> Image.Image:
    height, width = random.integers(24, 48, 2)
    above, below = (np.array(colour) for colour in COLOURS[name])
    scene = np.where(np.linspace(0, 1, height)[:, None, None] < random.uniform(0.4, 0.6), above, below)
    scene = scene + random.uniform(-20, 20, 3) + random.normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))


def draw_photographs(folder: Path) -> None:
    """180 photographs to train with, 120 to calibrate, 180 to test: mixed sizes, and one in nine stored upside down."""
    random = np.random.default_rng(0)
    upside_down = Image.Exif()
    upside_down[0x0112] = 3  # the orientation: turned by 180°
    for part, count in (("train", 60), ("calibration", 40), ("test", 60)):
        for name in COLOURS:
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                image, path = photograph(name, random), folder / part / name / f"{i}.jpg"
                if i % 9 == 0:
                    image.transpose(Image.Transpose.ROTATE_180).save(path, quality=95, exif=upside_down)
                else:
                    image.save(path, quality=95)


def run_command(folder: Path, arguments: list[str], log: Path) -> None:
    """`python -m heatserve ARGUMENTS` in `folder`, with one thread; what it prints goes to `log`."""
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    torch.set_num_threads(1)
    sys.argv = ["heatserve", *arguments]
    from heatserve.cli import main

    main()


@dataclass
class Reader:
    """Somebody who does what the page says, in a folder of their own."""

    folder: Path
    answers: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    """What `predict` said, by its model and its other options."""
    printed: dict[str, str] = field(default_factory=dict)
    """What each other command printed."""
    _server: subprocess.Popen[bytes] | None = None
    _ports: dict[str, int] = field(default_factory=dict)

    def follow(self, page: str) -> None:
        for language, code in re.findall(r"^```(python|sh)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
            if language == "python":
                name, _, _ = code.partition("\n")
                (self.folder / name.removeprefix("# ")).write_text(code)
                continue
            for line in code.replace("\\\n", " ").splitlines():
                self._type(line)

    def stop_server(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(60)

    def _type(self, line: str) -> None:
        program, *arguments = shlex.split(line)
        if "theirs.pth" in arguments:
            self._bring_weights()
        if program == "python":
            subprocess.run([sys.executable, *arguments], cwd=self.folder, check=True, timeout=300)
        elif arguments[0] == "serve":
            self._serve(arguments)
        elif arguments[0] == "predict":
            self._predict(line, arguments)
        else:
            self.printed[" ".join(arguments)] = self._run(line, arguments)

    def _run(self, line: str, arguments: list[str]) -> str:
        assert shlex.split(line)[0] == "heatserve"
        log = self.folder / "log.txt"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        process = context.Process(target=run_command, args=(self.folder, arguments, log))
        process.start()
        process.join(300)
        printed = log.read_text()
        assert process.exitcode == 0, f"{line}\n{printed}"
        return printed

    def _serve(self, arguments: list[str]) -> None:
        self.stop_server()
        self._ports = dict(zip(("http", "grpc", "metrics"), free_ports(3), strict=True))
        options = [word for name, port in self._ports.items() for word in (f"--{name}-port", str(port))]
        command = [sys.executable, "-m", "heatserve", *arguments, *options]
        with (self.folder / "server.txt").open("w") as log:
            self._server = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)
        self._wait_for(arguments[1:])

    def _wait_for(self, models: list[str]) -> None:
        deadline = time.monotonic() + 120
        while True:
            assert self._server is not None
            assert self._server.poll() is None, (self.folder / "server.txt").read_text()
            try:
                for model in models:
                    with Client(self._url, model=model, retries=0) as client:
                        client.promise()
                return
            except ServingError:
                assert time.monotonic() < deadline, (self.folder / "server.txt").read_text()
                time.sleep(0.2)

    @property
    def _url(self) -> str:
        return f"grpc://127.0.0.1:{self._ports['grpc']}"

    def _predict(self, line: str, arguments: list[str]) -> None:
        found = [sorted(glob.glob(word, root_dir=self.folder)) or [word] for word in arguments]
        words = [word for names in found for word in names]
        printed = self._run(line, [*words, "--url", self._url, "--json"])
        at = arguments.index("--model") + 1
        self.answers[arguments[at], " ".join(arguments[at + 1 :])] = json.loads(printed)

    def _bring_weights(self) -> None:
        """Somebody's file: tensors of the page's own code, as saved from several GPUs, in half precision."""
        own = load_checkpoint(
            self.folder / "runs" / "own.safetensors", architecture=f"{self.folder}/nets.py:build?width=8"
        )
        tensors = {f"module.{name}": tensor.half() for name, tensor in own.network.state_dict().items()}
        torch.save({"state_dict": tensors, "epoch": 5}, self.folder / "theirs.pth")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The reader at the end of the page."""
    reader = Reader(tmp_path_factory.mktemp("reader"))
    draw_photographs(reader.folder / "photos")
    try:
        reader.follow(PAGE.read_text())
        yield reader
    finally:
        reader.stop_server()


@pytest.mark.parametrize("model", ["vit", "own", "theirs", "perceptron"])
def test_photographs_get_their_class_and_a_radius_that_a_calibration_backs(reader: Reader, model: str) -> None:
    answers = reader.answers[model, ""]
    assert [answer["class_name"] for answer in answers] == sorted(COLOURS)
    assert all(answer["certified_radius"] > 0.1 for answer in answers), answers
    card = open_model(reader.folder / "model_repository", model).card
    assert card.calibration is not None
    assert (card.calibration.alpha, card.resize, card.input_shape) == (0.1, 18, (3, 16, 16))
    assert card.calibration.vouched == (model in ("theirs", "perceptron"))


@pytest.mark.parametrize("model", ["own", "perceptron"])
def test_their_classes_are_proven(reader: Reader, model: str) -> None:
    answers = reader.answers[model, "--confirm 0.125"]
    assert [(answer["class_name"], answer["outcome"]) for answer in answers] == [
        (name, "yes") for name in sorted(COLOURS)
    ]


def test_the_accuracy_is_printed_of_what_was_trained_and_of_what_was_brought(reader: Reader) -> None:
    for words in ("train baseline", "train average", "import-weights"):
        for command, printed in reader.printed.items():
            if command.startswith(words):
                (accuracy,) = re.findall(r"accuracy\D*([\d.]+) ?%", printed)
                assert float(accuracy) > 90, printed
