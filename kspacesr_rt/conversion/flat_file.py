"""A model as one flat graph of standard ops, for runtimes that take no functions and no binding."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
from onnx import helper

from kspacesr_rt._version import __version__
from kspacesr_rt.errors import OutputError, ParityError
from kspacesr_rt.graph.flat import flattened
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.binding import BoundModel, bind
from kspacesr_rt.model.file import ModelFile
from kspacesr_rt.model.slice_arrays import network_input
from kspacesr_rt.quality.metrics import relative_error
from kspacesr_rt.runtime.backends import BackendOptions, open_backend
from kspacesr_rt.system.files import replace_file

FLATTENED_KEY = "kspacesr_rt.flattened_from"
"""Metadata: digest of the weights of the model file that a flat graph was made from. The
specification stays behind: a flat graph is bound for good, and `infer` does not take it."""
SAME = 1e-6
"""Largest relative difference to the model file: the same ops in the same order."""


def flatten_model(
    model: ModelFile,
    output: Path,
    *,
    matrix: Matrix | None = None,
    backend: str = "ort-cpu",
    force: bool = False,
) -> Path:
    """Write a model, bound to a matrix, without functions and without operators of ours.

    Parameters
    ----------
    model
        What `load_model` returned.
    output
        The ``.onnx`` file to write.
    matrix
        LR ``(rows, columns)``; default: the one it is stored for.
    backend
        Which backend compares it with the model file.
    force
        Replace an existing file.

    Raises
    ------
    OutputError
        If the file exists, or cannot be written.
    ParityError
        If the flat graph does not compute what the model computes; no file is left.
    """
    if output.exists() and not force:
        raise OutputError(f"{output} exists", hint="replace it with --force")
    bound = bind(model, matrix or model.spec.matrix)
    flat = flattened(bound.proto)
    del flat.metadata_props[:]
    helper.set_model_props(flat, {FLATTENED_KEY: model.spec.provenance.weights_sha256})
    flat.producer_name, flat.producer_version = "kspacesr-rt", __version__
    onnx.checker.check_model(flat, full_check=True)
    lr = network_input(brain_phantom(bound.spec.matrix), bound.spec)
    error = relative_error(
        _run(dataclasses.replace(bound, proto=flat), lr, backend), _run(bound, lr, backend)
    )
    if not error <= SAME:
        raise ParityError(
            f"the flat graph differs from the model by {error:.1e}; no file was written"
        )
    replace_file(output, flat.SerializeToString(deterministic=True))
    return output


def _run(bound: BoundModel, lr: FloatArray, backend: str) -> FloatArray:
    with open_backend(backend, bound, BackendOptions()) as opened:
        return opened.run(lr)
