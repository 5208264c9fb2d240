"""Every block of code of README, the tutorial and the guides runs as it is printed, in a folder with what pages name.

First all that needs no server, in the order of the pages; then one server for what asks one. What a block cannot be run
for stands before it in its page (`page_blocks`).
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from known_tiers import hurry
from page_blocks import ROOT, Block, blocks_of, has_shape
from page_sandbox import bring_weights, furnish

from heatserve import FREE_PORTS, Endpoints, Server
from heatserve.serving.front.options import FrontOptions

pytestmark = pytest.mark.slow

TUTORIAL = "docs/tutorial.md"
FIRST = ("train", "calibrate", "audit", "export", "pictures", "operate", "serve")
"""Guides in an order in which each finds what those before made; `your-own-model` has a test of its own."""
GUIDES = [*FIRST, *sorted({path.stem for path in (ROOT / "docs" / "guide").glob("*.md")} - {*FIRST, "your-own-model"})]
PAGES = [
    ROOT / "README.md",
    ROOT / TUTORIAL,
    *(ROOT / "docs" / "guide" / f"{name}.md" for name in GUIDES),
    *sorted(path for path in (ROOT / "docs").glob("*.md") if path != ROOT / TUTORIAL),
]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
TO_RUN = [block for block in BLOCKS if block.not_run is None]
BEFORE = {
    "docs/guide/calibrate.md": "heatserve export runs/average.safetensors --name cifar10 &&"
    " heatserve export runs/resnet20.safetensors --name theirs --sigma 0.25"
}
"""What is done before a page, whose models have the names of others."""
_PASSPHRASE = re.compile(rb"(?i)pass ?phrase.*:|Password:")
_ASKS = re.compile(r"heatserve (predict|certify|playground) |127\.0\.0\.1:800|HOST:800")
SECONDS = 600
HIDDEN_SECONDS = 30
TRIES = 4
"""Of a block whose votes are random: 19 of 600 times the tutorial's cross was given up, where its page shows a yes."""


def file_of(block: Block) -> str | None:
    """The name of the file that a block of Python is, whose first line says so; None: it is run as it is."""
    name = re.match(r"# (\w+\.py)\n", block.code) if block.language == "python" else None
    return name[1] if name else None


def asks(block: Block) -> bool:
    """Whether a block needs a server, or runs a file that does."""
    files = [file_of(other) for other in BLOCKS if other.page == block.page and _ASKS.search(other.code)]
    return bool(_ASKS.search(block.code) or any(f"python {name}" in block.code for name in files if name))


@dataclass(frozen=True)
class Ran:
    """What became of a block: its exit code, what it printed, and the seconds that it took."""

    exit_code: int
    printed: str
    seconds: float


@dataclass
class Reader:
    """Somebody who does what the pages say, in a folder of their own."""

    folder: Path
    programs: Path
    ran: dict[Block, Ran] = field(default_factory=dict)
    servers: dict[str, Endpoints] = field(default_factory=dict)
    """By the scheme over which pages ask them."""

    def read(self) -> None:
        """Run everything."""
        pages = dict.fromkeys(block.page for block in TO_RUN)
        for page in pages:
            if page in BEFORE:
                before = self._shell(BEFORE[page], self.folder)
                assert before.exit_code == 0, before.printed
            for block in TO_RUN:
                if block.page == page and not asks(block):
                    self.run(block)
            if page == "README.md":
                bring_weights(self.folder)
        self._remove_what_nobody_asks()
        tokens, key = self.folder / "tokens", self.folder / "server.key"
        secure = FrontOptions(tls_cert=self.folder / "server.pem", tls_key=key, token_file=tokens)
        models, alone = self.folder / "model_repository", self.folder / "alone"
        shutil.copytree(models / "digits", alone / "digits")
        with (
            Server(models, models=self._asked(), endpoints=FREE_PORTS) as plain,
            Server(alone, endpoints=FREE_PORTS, front=secure) as safe,
        ):
            self.servers = {"http": plain.endpoints, "https": safe.endpoints}
            for model in plain.models:
                with suppress(ValueError):  # it has no tiers, and no voter
                    hurry(plain.triton, model.name)
            for block in filter(asks, TO_RUN):
                self.run(block)

    def run(self, block: Block) -> None:
        """Run a block, and keep what became of it."""
        code = self._at_servers(block.code)
        if "heatserve sign" in code:  # which is about the newest version, whatever was rolled back to before
            (self.folder / "model_repository" / "digits" / "served.json").unlink()
        if block.language == "sh":
            for _ in range(TRIES if "--confirm" in code else 1):
                self.ran[block] = ran = self._shell(code, self._place(block))
                if block.output is None or has_shape(ran.printed, block.output):
                    return
            return
        name = file_of(block)
        (self._place(block) / (name or "block.py")).write_text(code)
        self.ran[block] = Ran(0, "", 0) if name else self._shell("python block.py", self._place(block))

    def _place(self, block: Block) -> Path:
        """The folder in which the blocks of its page run: that of the tutorial is empty at first."""
        return self.folder / "tutorial" if block.page == TUTORIAL else self.folder

    def _remove_what_nobody_asks(self) -> None:
        """Remove tiers that no page asks: each is a process, which takes a second to start."""
        repository = self.folder / "model_repository"
        unasked = {path for name in ("cifar10_*", "*_cascade", "*_certify") for path in repository.glob(name)}
        for folder in unasked:
            shutil.rmtree(folder)

    def _asked(self) -> list[str]:
        """The models that the blocks ask."""
        codes = "\n".join(block.code for block in filter(asks, TO_RUN))
        named = re.findall(r"""(?:--model |model=")(\w+)""", codes)
        return sorted({"digits" if name == "quickstart_digits" else name for name in named})

    def _at_servers(self, code: str) -> str:
        """The code with the addresses of the servers in place of those in the pages."""
        if not self.servers:
            return code
        plain, safe = self.servers["http"], self.servers["https"]
        code = code.replace("quickstart_digits", "digits").replace(
            "https://HOST:8000", f"https://localhost:{safe.http}"
        )
        for port, here in ((8000, plain.http), (8001, plain.grpc), (8002, plain.metrics)):
            code = re.sub(rf"(HOST|127\.0\.0\.1):{port}", f"127.0.0.1:{here}", code)
        return re.sub(r"(heatserve (?:predict|certify|playground)\b)", rf"\1 --url {plain.grpc_url}", code)

    def _shell(self, code: str, folder: Path) -> Ran:
        """Run a code of bash in a terminal of its own, where it asks for passphrases."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            "PATH": f"{self.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "COLUMNS": "100",
            "TERM": "dumb",
        }
        started = time.monotonic()
        terminal, end = pty.openpty()
        command = ["setsid", "--ctty", "bash", "-euo", "pipefail", "-c", code]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdin=end, stdout=end, stderr=end)
        os.close(end)
        printed = b""
        while part := _read(terminal):
            printed += part
            if time.monotonic() - started > SECONDS:
                os.killpg(process.pid, signal.SIGKILL)
            if _PASSPHRASE.search(part):
                _wait_until_hidden(terminal)
                os.write(terminal, b"a passphrase\n")
        os.close(terminal)
        code_of_exit = process.wait(SECONDS)
        if os.environ.get("BLOCK_TIMES"):
            print(f"{time.monotonic() - started:6.1f} {code_of_exit} {code[:90]!r}", file=sys.stderr, flush=True)
        return Ran(code_of_exit, printed.decode(errors="replace").replace("\r\n", "\n"), time.monotonic() - started)


def _wait_until_hidden(terminal: int) -> None:
    """Until what is typed is not shown: who asks drops, when he hides it, what was typed before."""
    end = time.monotonic() + HIDDEN_SECONDS
    while termios.tcgetattr(terminal)[3] & termios.ECHO and time.monotonic() < end:
        time.sleep(0.01)


def _read(terminal: int) -> bytes:
    """What is printed next; nothing at the end of the process, which closes its terminal."""
    if not select.select([terminal], [], [], SECONDS)[0]:
        raise TimeoutError(f"nothing was printed for {SECONDS} s")
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The reader at the end of all pages."""
    missing = [name for name in ("curl", "openssl", "setsid") if not shutil.which(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not on this machine, and the pages need them")
    folder, programs = tmp_path_factory.mktemp("reader"), tmp_path_factory.mktemp("programs")
    command = [sys.executable, str(ROOT / "tests" / "quick_heatserve.py"), str(programs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as quick:
        try:
            furnish(folder)
            (folder / "tutorial").mkdir()
            (folder / "tutorial" / "model_repository").symlink_to(folder / "model_repository")
            (folder / ".venv" / "bin").mkdir(parents=True)
            (folder / ".venv" / "bin" / "heatserve").symlink_to(programs / "heatserve")
            assert quick.stdout is not None
            assert quick.stdout.readline() == "ready\n"
            reader = Reader(folder, programs)
            reader.read()
            yield reader
        finally:
            quick.kill()


@pytest.mark.parametrize("block", TO_RUN, ids=str)
def test_a_block_runs_and_prints_what_its_page_shows(reader: Reader, block: Block) -> None:
    ran = reader.ran[block]
    assert ran.exit_code == block.exit_code, f"{block.code}\n{ran.printed}"
    if block.output is not None:
        assert has_shape(ran.printed, block.output), ran.printed


def test_every_output_that_a_page_shows_is_compared() -> None:
    """It stands right after a block that is run, of a page whose blocks are run here."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")]
    shown = {
        str(page.relative_to(ROOT)): len(re.findall(r"^ *```text$", page.read_text(), re.MULTILINE)) for page in pages
    }
    compared = Counter(block.page for block in TO_RUN if block.output is not None)
    assert {page: count for page, count in shown.items() if count} == dict(compared)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=str)
def test_the_shell_reads_every_block(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.not_run], ids=str)
def test_a_block_that_is_not_run_says_why_and_which_test_stands_in(block: Block) -> None:
    assert block.not_run is not None
    named = re.findall(r"tests/[\w/]+\.py", block.not_run)
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert named or re.match("needs |they ", block.not_run)
