"""Where Triton is installed, and what it needs to serve ONNX graphs through our Python backend."""

from __future__ import annotations

import ctypes.util
import importlib.util
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from heatserve.serving.errors import ServingError

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_STUB_NAME = "triton_python_backend_stub"
_STUB_LIBRARY = re.compile(rb"libpython3(?:-[0-9a-f]+)?\.(\d+)\.so")  # the wheel may carry a hash in the name


@dataclass(frozen=True)
class Triton:
    """One installation of Triton: the program, its folder of backends, and a folder of bundled libraries, if any."""

    binary: Path
    backends: Path
    libraries: Path | None = None

    @property
    def has_native_onnxruntime(self) -> bool:
        """Whether NVIDIA's own `onnxruntime` backend is there: then ours is not used."""
        return (self.backends / "onnxruntime" / "libtriton_onnxruntime.so").is_file()

    @property
    def has_tensorrt(self) -> bool:
        """Whether the backend that serves TensorRT plans is there."""
        return (self.backends / "tensorrt" / "libtriton_tensorrt.so").is_file()

    @property
    def has_python_backend(self) -> bool:
        """Whether Triton can run backends that are written in Python."""
        return (self.backends / "python" / "libtriton_python.so").is_file()

    def stub(self) -> Path:
        """The program that runs Python backends for the Python version that is running now.

        Raises:
            ServingError: this Triton has none for this version. Lists the versions it has.
        """
        found = {}
        for stub in (
            *(self.backends.parent / "python_backend_stubs").glob(f"*/{_STUB_NAME}"),
            self.backends / "python" / _STUB_NAME,
        ):
            library = _STUB_LIBRARY.search(stub.read_bytes()) if stub.is_file() else None
            if library:
                found[f"3.{library[1].decode()}"] = stub
        if PYTHON_VERSION not in found:
            versions = ", ".join(sorted(found, key=lambda version: int(version.split(".")[1]))) or "no version"
            raise ServingError(
                f"{self.binary}: expected a Python backend for Python {PYTHON_VERSION}, which is running; "
                f"found it for {versions}; install heatserve into one of these versions"
            )
        return found[PYTHON_VERSION]


def find_triton(*, backend_directory: Path | None = None) -> Triton:
    """Find `tritonserver` on PATH or in the wheel nvidia-pytriton: the first that can serve ONNX graphs.

    Args:
        backend_directory: the folder of its backends, where that is not beside the program's own.

    Raises:
        ServingError: no Triton, or none with a backend that we can use. Says what was found and how to get one.
    """
    installed = [triton for triton in (_triton_on_path(), _triton_of_wheel()) if triton is not None]
    if backend_directory is not None:
        installed = [Triton(triton.binary, backend_directory.absolute(), triton.libraries) for triton in installed]
    for triton in installed:
        if triton.has_native_onnxruntime or triton.has_python_backend:
            return triton
    found = "; ".join(f"{triton.binary}, with neither in {triton.backends}" for triton in installed)
    raise ServingError(
        "Triton: expected `tritonserver` with the backend `onnxruntime` or `python`, on PATH or in the wheel "
        f"nvidia-pytriton; found {found or 'none'}. Either `pip install 'heatserve[serve]'` (Linux), or run inside "
        "NVIDIA's container of Triton. `--backend-directory` names backends that lie elsewhere"
    )


def find_libpython() -> Path:
    """The shared library of the Python that is running, which Triton's Python backend loads.

    Raises:
        ServingError: this Python was built without one, or it is not installed.
    """
    name = f"libpython{PYTHON_VERSION}.so.1.0"
    folders = (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib")
    for folder in filter(None, folders):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    known_to_linker = ctypes.util.find_library(f"python{PYTHON_VERSION}")
    if known_to_linker == name:
        return Path(name)
    raise ServingError(
        f"{sys.executable}: expected the shared library {name}, found none in {', '.join(filter(None, folders))} or "
        f"on the linker's path; install it (Debian, Ubuntu: apt install libpython{PYTHON_VERSION}) or a Python "
        "built with --enable-shared (pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared; uv and conda have it)"
    )


def _triton_on_path() -> Triton | None:
    found = shutil.which("tritonserver")
    if found is None:
        return None
    binary = Path(found).resolve()
    return Triton(binary, binary.parent.parent / "backends")


def _triton_of_wheel() -> Triton | None:
    spec = importlib.util.find_spec("pytriton")  # found, not imported: its modules are of no use here
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(spec.submodule_search_locations[0]).absolute()
    triton = package / "tritonserver"
    binary = triton / "bin" / "tritonserver"
    return Triton(binary, triton / "backends", package.parent / "nvidia_pytriton.libs") if binary.is_file() else None
