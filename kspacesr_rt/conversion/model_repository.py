"""A model as a repository for inference servers: Triton, OpenVINO Model Server, KServe.

====================== =========================================================================
in the folder          what it is
====================== =========================================================================
``NAME/config.pbtxt``  Triton's configuration: shapes, batches, instances, a slice to warm up with
``NAME/1/model.onnx``  the flat graph: standard operators, normalisation and data consistency inside
``NAME/warmup/lr``     that slice, raw
``config.json``        the same list for OpenVINO Model Server
``known_answers.npz``  an input for each entry, and what must come back
``client.py``          asks a server that, and says how far the answers agree
``README.md``          how the servers are started, and what a client must know
====================== =========================================================================
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from kspacesr_rt.conversion.flat_file import flatten_model
from kspacesr_rt.errors import InputError, OutputError, failing_the_output
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.binding import (
    bind,
    require_bindable,
    require_fitting,
    require_stored_constants,
)
from kspacesr_rt.model.file import INPUT_NAME, OUTPUT_NAME, ModelFile
from kspacesr_rt.model.slice_arrays import network_input
from kspacesr_rt.runtime.backends import BackendOptions, open_backend
from kspacesr_rt.runtime.self_test import REQUIRED_DB, require_verified, verify_model
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.progress_messages import report_step

REFERENCE_BACKEND: Final = "ort-cpu"
CLIENT: Final = "client.py"
KNOWN_ANSWERS: Final = "known_answers.npz"
CONFIG: Final = "config.json"
README: Final = "README.md"
LONGEST_STEM: Final = 200
"""Characters of a model's name in names of folders, which may have 255."""
WARM_UP: Final = "warmup"
MAX_BATCH: Final = 8
"""Slices that a server may put into one batch."""
QUEUE_DELAY_US: Final = 2000
"""Microseconds for which a request waits for others that make a batch with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One model of a repository."""

    name: str
    """Of its folder, and what clients ask for."""
    matrix: Matrix
    """LR rows and columns that it is bound to; of an open one, those of its known answer."""
    is_open: bool
    """Whether it takes every matrix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRepository:
    """What was written."""

    folder: Path
    """The repository."""
    entries: tuple[Entry, ...]
    """Its models."""
    size_bytes: int
    """Of all files."""


def write_model_repository(
    model: ModelFile, folder: Path, *, matrices: Sequence[Matrix] = ()
) -> ModelRepository:
    """Write a model repository, or nothing.

    Parameters
    ----------
    model
        What `load_model` returned. It must give its stored answer here.
    folder
        New, or empty.
    matrices
        LR ``(rows, columns)``, an entry each; default: the one the model is stored for. A model
        that was lowered as ``dynamic`` takes every matrix, and has one entry.

    Raises
    ------
    InputError
        If a matrix is none that the model takes, or one is given for a model that takes all.
    OutputError
        If the folder holds something, or cannot be written.
    BackendUnavailableError
        If ONNX Runtime, which proves it, cannot run here.
    ParityError
        If the model or a flat graph computes something else here.
    """
    require_free_folder(folder)
    entries = _entries(model, matrices)
    report_step(f"verifying {model.spec.name} on {REFERENCE_BACKEND}")
    require_stored_constants(model)
    require_verified(verify_model(model, REFERENCE_BACKEND))
    with _built_beside(folder) as building:
        answers: dict[str, FloatArray] = {}
        for entry in entries:
            report_step(f"flattening {entry.name}")
            lr, sr = _answer(model, entry.matrix)
            answers |= {f"{entry.name}/{INPUT_NAME}": lr, f"{entry.name}/{OUTPUT_NAME}": sr}
            own = building / entry.name
            flatten_model(
                model, own / "1" / "model.onnx", matrix=entry.matrix, backend=REFERENCE_BACKEND
            )
            replace_file(own / "config.pbtxt", triton_config(model, entry).encode())
            replace_file(own / WARM_UP / INPUT_NAME, lr.astype("<f4").tobytes())
        replace_file(building / KNOWN_ANSWERS, _packed(answers, model))
        replace_file(building / CONFIG, _ovms_config(entries).encode())
        replace_file(building / CLIENT, _client().encode())
        replace_file(building / README, _readme(model, entries).encode())
        size = sum(path.stat().st_size for path in building.rglob("*") if path.is_file())
    return ModelRepository(folder=folder, entries=entries, size_bytes=size)


def require_free_folder(folder: Path) -> None:
    """Refuse a place that is taken, before minutes are spent on what goes there.

    Raises
    ------
    OutputError
        If it is no folder, holds something, or cannot be read.
    """
    with failing_the_output(f"cannot write {folder}"):
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken:
        raise OutputError(f"{folder} exists and is not empty", hint="name another folder")


def triton_config(model: ModelFile, entry: Entry) -> str:
    """Return an entry's ``config.pbtxt``.

    A dimension of -1 is one that differs from request to request. Networks that take one slice at
    a time have their batch of 1 among the dimensions, and are not batched.
    """
    spec, single = model.spec, model.spec.single_slice
    batch = (1,) if single else ()
    lr: Matrix = (-1, -1) if entry.is_open else entry.matrix
    sr: Matrix = (-1, -1) if entry.is_open else spec.sr_matrix(entry.matrix)
    # A warm-up slice has lengths, also where the model takes any.
    warm_up = (*batch, *spec.input_axes, *entry.matrix)
    lines = [
        f"# {_plain(spec.intended_use)}",
        f"# weights sha256:{spec.provenance.weights_sha256}",
        f'name: "{entry.name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {0 if single else MAX_BATCH}",
        _tensor("input", INPUT_NAME, (*batch, *spec.input_axes, *lr)),
        _tensor("output", OUTPUT_NAME, (*batch, *spec.output_axes, *sr)),
        "instance_group [ { kind: KIND_AUTO, count: 1 } ]",
    ]
    if not single:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_US} }}")
    lines += [
        "model_warmup [ {",
        '  name: "a slice"',
        f"  batch_size: {0 if single else 1}",
        "  inputs {",
        f'    key: "{INPUT_NAME}"',
        f'    value {{ data_type: TYPE_FP32, dims: {list(warm_up)}, input_data_file: "'
        f'{INPUT_NAME}" }}',
        "  }",
        "} ]",
    ]
    return "\n".join(lines) + "\n"


def _tensor(kind: str, name: str, dims: tuple[int, ...]) -> str:
    return f'{kind} [ {{ name: "{name}", data_type: TYPE_FP32, dims: {list(dims)} }} ]'


def _entries(model: ModelFile, matrices: Sequence[Matrix]) -> tuple[Entry, ...]:
    spec = model.spec
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", spec.name)[:LONGEST_STEM].strip("-.") or "model"
    if stem.lower() in {one.lower() for one in (KNOWN_ANSWERS, CONFIG, CLIENT, README)}:
        stem += "-model"  # the repository has a file of that name
    if spec.lowering == "dynamic":
        if matrices:
            raise InputError(
                f"'{spec.name}' takes every matrix: its repository has one entry",
                hint="without --matrix",
            )
        return (Entry(name=stem, matrix=spec.matrix, is_open=True),)
    wanted = tuple(dict.fromkeys(matrices)) or (spec.matrix,)
    for matrix in wanted:
        require_bindable(matrix)
        require_fitting(spec, matrix)
    return tuple(
        Entry(name=f"{stem}-{rows}x{columns}", matrix=(rows, columns), is_open=False)
        for rows, columns in wanted
    )


def _answer(model: ModelFile, matrix: Matrix) -> tuple[FloatArray, FloatArray]:
    """Return a batch of one slice, and what the model file gives for it."""
    lr = network_input(brain_phantom(matrix), model.spec)
    with open_backend(REFERENCE_BACKEND, bind(model, matrix), BackendOptions()) as opened:
        return lr, opened.run(lr)


def _packed(answers: dict[str, FloatArray], model: ModelFile) -> bytes:
    content = io.BytesIO()
    required = np.float32(REQUIRED_DB[model.spec.precision])
    np.savez_compressed(content, required_db=required, allow_pickle=False, **answers)
    return content.getvalue()


def _ovms_config(entries: Sequence[Entry]) -> str:
    listed = [{"config": {"name": one.name, "base_path": f"/models/{one.name}"}} for one in entries]
    return json.dumps({"model_config_list": listed}, indent=1) + "\n"


def _client() -> str:
    from kspacesr_rt.conversion import repository_client

    return Path(repository_client.__file__).read_text(encoding="utf-8")


def _plain(text: str) -> str:
    return " ".join(text.split())


@contextmanager
def _built_beside(folder: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of `folder` once it is whole, or leaves nothing."""
    with failing_the_output(f"cannot write {folder}"):
        parent = folder.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=parent))
    try:
        yield building
        with failing_the_output(f"cannot write {folder}"):
            building.chmod(0o755)  # mkdtemp's is for its owner alone; servers run as others
            building.rename(folder)  # takes the place of an empty one
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _readme(model: ModelFile, entries: Sequence[Entry]) -> str:
    spec = model.spec
    taken = "n, " + ", ".join([*map(str, spec.input_axes), "y, x"])
    given = "n, " + ", ".join([*map(str, spec.output_axes), f"{spec.upscale} y, {spec.upscale} x"])
    if spec.single_slice:
        taken, given = taken.replace("n,", "1,", 1), given.replace("n,", "1,", 1)
    unit = (
        "Values are those of the slice, in any unit: scaling is inside the graph."
        if spec.input == "image"
        else "Values are centred k-space, real and imaginary part on an axis of their own; scaling "
        "is inside the graph."
    )
    rows = "\n".join(
        f"| `{one.name}` | {'any' if one.is_open else f'{one.matrix[0]} x {one.matrix[1]}'} |"
        for one in entries
    )
    return f"""# {_plain(spec.name)} for inference servers

{_plain(spec.intended_use)}

| model | LR matrix |
| --- | --- |
{rows}

`lr` is float32 `({taken})`, `sr` float32 `({given})`. {unit}
What is around a slice is not: choice of slices, DICOM and its geometry, and the checks of a
result are those of `kspacesr-rt infer`. Samples lie on the grid `{spec.output_grid}`.

Triton:

    docker run --rm -p 8000:8000 -v "$PWD":/models:ro nvcr.io/nvidia/tritonserver:25.08-py3 \\
        tritonserver --model-repository=/models --strict-readiness=true

OpenVINO Model Server:

    docker run --rm -p 8000:8000 -v "$PWD":/models:ro openvino/model_server:latest \\
        --config_path /models/config.json --rest_port 8000

KServe: copy this folder to a volume or bucket, and name it as `storageUri` of an
`InferenceService` with `modelFormat: {{name: triton}}` and `protocolVersion: v2`.

Then ask for the known answers (NumPy is all it needs; exit code 1 if one is wrong):

    python client.py --url http://127.0.0.1:8000

`config.pbtxt`: at most {MAX_BATCH} slices a batch, {QUEUE_DELAY_US} microseconds of waiting for
others, one instance for each GPU, or one on the CPU. They are yours to change.
"""
