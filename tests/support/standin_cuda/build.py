"""Build the stand-in's libraries: ``python -m standin_cuda.build FOLDER SITE`` prints where."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-Wall", "-Wno-format-truncation")
RUNTIME, BLAS, BLAS_LT = "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"
RECORD = "libstandin.so"
OWN = {RUNTIME: "runtime", BLAS: "blas", BLAS_LT: "blas"}
"""Library, whose name is also the version of its symbols, to the source of what it does; whatever
else ONNX Runtime asks of it succeeds and does nothing."""
OTHERS = {
    "libcudnn.so.9": "dnn",
    "libnvinfer.so.10": "infer",
    "libnvonnxparser.so.10": "infer",
    "libnvinfer_plugin.so.10": "infer",  # of TensorRT's Python bindings
    "libcuda.so.1": "driver",
    "libnvidia-ml.so.1": "driver",
}
DRIVER = ("libcuda.so.1", "libnvidia-ml.so.1")


def build_libraries(folder: Path, site: Path) -> Path:
    """Build every library into a folder.

    Parameters
    ----------
    folder
        Where they go; one folder holds them all, so that a test may link what it wants to be there.
    site
        Folder with the `onnxruntime` of onnxruntime-gpu, whose undefined symbols are read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = {"record", *OWN.values(), *OTHERS.values()}
    objects = {name: folder / f"{name}.o" for name in sources}
    compiling = [
        subprocess.Popen(["g++", *FLAGS, "-c", str(SOURCES / f"{name}.cpp"), "-o", str(made)])
        for name, made in objects.items()
    ]
    if any(one.wait() != 0 for one in compiling):
        raise RuntimeError("g++ does not compile the stand-in")
    _link(folder, RECORD, objects["record"])
    wanted = _wanted(site)
    for library, source in OWN.items():
        _link(folder, library, objects[source], missing=wanted[library], versioned=True)
    for library, source in OTHERS.items():
        _link(folder, library, objects[source])
    _link(folder, "libcurand.so.10", None)
    return folder


def _wanted(site: Path) -> dict[str, set[str]]:
    """Return, by library, the symbols that ONNX Runtime's providers take from it."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for provider in ("cuda", "tensorrt"):
        file = site / f"onnxruntime/capi/libonnxruntime_providers_{provider}.so"
        for line in _symbols("-u", file):
            name, _, library = line.partition("@")
            if library in OWN:
                wanted[library].add(name)
    return wanted


def _symbols(option: str, file: Path, *, dynamic: bool = True) -> list[str]:
    command = ["nm", *(["-D"] if dynamic else []), option, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split()[-1] for line in done.stdout.splitlines()]


def _link(
    folder: Path,
    library: str,
    source: Path | None,
    *,
    missing: Collection[str] = (),
    versioned: bool = False,
) -> None:
    done = set(_symbols("--defined-only", source, dynamic=False)) if source else set()
    stubs = folder / f"{library}.cpp"
    lines = ['#include "standin.h"']
    lines += [
        f'CUDA_API int {name}() {{ standin_record("unhandled", "{name}"); return 0; }}'
        for name in sorted(set(missing) - done)
    ]
    stubs.write_text("\n".join(lines) + "\n")
    command = [
        "g++",
        *FLAGS,
        "-shared",
        f"-I{SOURCES}",
        str(stubs),
        *([str(source)] * bool(source)),
    ]
    command += ["-o", str(folder / library), f"-Wl,-soname,{library}"]
    if versioned:
        script = folder / f"{library}.map"
        script.write_text(f"{library} {{ global: *; }};\n")
        command.append(f"-Wl,--version-script={script}")
    if library != RECORD and library not in DRIVER:  # the driver loads by itself
        command += [str(folder / RECORD), "-Wl,-rpath,$ORIGIN"]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    print(build_libraries(Path(sys.argv[1]), Path(sys.argv[2])))
