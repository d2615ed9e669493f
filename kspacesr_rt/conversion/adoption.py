"""Adopt an ONNX file that others made: normalised around, measured, proved, and given our metadata.

What computes is their graph, untouched but for moduli of constants. Nothing is believed of it: what
it upscales by, which matrices it takes, where its samples lie and whether it takes several slices
at once is measured on its own runtime, which is also what the gate compares the adopted file with.
No torch is needed.
"""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import get_args

import numpy as np

from kspacesr_rt._version import __version__
from kspacesr_rt.conversion.contract_gate import require_contracts
from kspacesr_rt.conversion.foreign_graph import ForeignGraph, read_foreign
from kspacesr_rt.conversion.foreign_runtime import ForeignRuntime, channels_of
from kspacesr_rt.conversion.grid_check import find_placement
from kspacesr_rt.conversion.normalising import Normalisation, normalised
from kspacesr_rt.conversion.padded_reference import padded
from kspacesr_rt.conversion.parity import TIERS, ParityReport, Run
from kspacesr_rt.conversion.proof import Reference, prove, require_free
from kspacesr_rt.conversion.stated_batches import with_open_batch
from kspacesr_rt.errors import InputError, KspaceSRError, ModelFileError, ParityError
from kspacesr_rt.kspace import FloatArray, Matrix
from kspacesr_rt.kspace.phantoms import brain_phantom
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.contracts import matrices_text
from kspacesr_rt.model.file import ModelFile, parse_model
from kspacesr_rt.model.spec import (
    DataConsistency,
    ModelSpec,
    OutputGrid,
    Padding,
    Provenance,
)
from kspacesr_rt.quality.metrics import psnr_between
from kspacesr_rt.runtime.backends import open_backend, require_available
from kspacesr_rt.system.files import replace_file
from kspacesr_rt.system.output_time import output_time
from kspacesr_rt.system.packages import installed_versions
from kspacesr_rt.system.path_arguments import require_path
from kspacesr_rt.system.progress_messages import report_step

BACKEND = "ort-cpu"
"""What runs the foreign file, and proves the adopted one."""
LEAST_APART = TIERS["exact"].psnr_between_db
"""dB between what is made of a slice among others and alone, where it does not depend on them."""
USUAL_MATRIX = 128
"""LR samples per axis that a file is said to be stored for, or the next multiple it takes."""
TRIED_BATCHES = (3, 2)
"""Slices that are given at once to see whether each is computed by itself: of a graph that is made
for so many, one of the two is not."""
LEAST_AS_NARROW = 40.0
"""dB between fp32 and half precision as it came: rounding in activations leaves 50 to 80."""
HINT_ON_GRAPHS = "export it again without what is named, or for one matrix (static axes)"
LONGEST_DESCRIPTION = 100_000
"""Characters of the text for a model's card."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contracts:
    """What the user declares of a network, to be checked on every slice."""

    data_consistency: DataConsistency = "none"
    """``hard``: measured k-space samples come back unchanged."""
    output_range: tuple[float, float] | None = None
    """Of a result, as shares of its source's largest magnitude."""
    homogeneous: bool = False
    """Scaling a slice scales its result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """What a user says of a network, for `inspect`, its card and its metadata."""

    name: str | None = None
    """Short name; None: the file's, without its suffix."""
    description: str = ""
    """For the card."""
    training: str = ""
    """Data and budget in a sentence."""
    licence: str = ""
    """Of the weights."""
    attribution: str = ""
    """Whom to credit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """A network that passed the gate and was written."""

    path: Path
    """Where it is."""
    spec: ModelSpec
    """As stored in it."""
    report: ParityReport
    """What the gate measured."""
    size_bytes: int
    """Size of the file."""
    remarks: tuple[str, ...]
    """What was measured on the way."""


def adopt_model(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    upscale: int | None = None,
    grid: OutputGrid | None = None,
    limits: tuple[float, float] | None = (0.0, 1.0),
    channels: int | None = None,
    matrix_multiple: int | None = None,
    padding: Padding = "reflect",
    contracts: Contracts | None = None,
    texts: Texts | None = None,
    force: bool = False,
    report_file: Path | None = None,
) -> Adopted:
    """Make a model file of an ONNX file that others made, if it computes the same.

    Parameters
    ----------
    source
        An image-to-image network: one float image ``(n, c, y, x)`` in, one out; opset 11 or newer.
        It is computed: adopt files of people you trust.
    output
        The ``.onnx`` file to write.
    upscale
        SR / LR that is expected; None takes what is measured.
    grid
        Where its SR samples lie; None measures it with a blob, and assumes ``pixel-centre`` if the
        blob does not come back as one.
    limits
        What 0 and a slice's largest magnitude become for the network, ``(low, high)``; None gives
        it values as they are.
    channels
        Of the network, 1 or 3; None takes what the file says, or 1.
    matrix_multiple
        What both axes of its matrix have to be a multiple of; None measures it.
    padding
        How a matrix is padded to that.
    contracts
        What is declared of it, to be checked on every slice.
    texts
        What is said of it.
    force
        Replace an existing file (only by a model that passed).
    report_file
        Where to write every number the gate measured, passed or not.

    Returns
    -------
        Where the model is, what it is, and what was measured.

    Raises
    ------
    InputError, ModelFileError
        If the file is no such network, upscales by another number, or does not take images.
    ParityError
        If the adopted file does not compute the same, answers on another grid, or is not as
        declared; no file is left.
    OutputError
        If the file exists, or cannot be written.
    BackendUnavailableError
        If ONNX Runtime is not installed.

    Examples
    --------
    >>> import kspacesr_rt as ks
    >>> made = ks.adopt_model("colleagues.onnx", "ours.onnx", upscale=2)  # doctest: +SKIP
    >>> ks.load("ours.onnx")(lr)  # doctest: +SKIP
    """
    contracts, texts = contracts or Contracts(), texts or Texts()
    source, output = Path(require_path(source, "source")), Path(require_path(output, "output"))
    require_free(output, force=force, report_file=report_file)
    if not source.is_file():
        raise InputError(f"no ONNX file '{source}'")
    if output.exists() and output.samefile(source):
        raise InputError(f"{output} is the network itself", hint="name another file with -o")
    if len(texts.description) > LONGEST_DESCRIPTION:
        raise InputError(f"a card's text of more than {LONGEST_DESCRIPTION} characters")
    require_available(BACKEND)
    report_step(f"reading {source.name}")
    graph = read_foreign(source)
    how = Normalisation(limits=limits, channels=channels_of(graph, channels))
    own = ForeignRuntime(graph, how)
    report_step("measuring its upscale, and which matrices it takes")
    found = own.measured(matrix_multiple)
    if upscale is not None and found.upscale != upscale:
        raise InputError(
            f"{graph.name}: upscales by {found.upscale}, as measured on an image; --upscale says "
            f"{upscale}",
            hint=f"say --upscale {found.upscale}, or leave it out",
        )
    rows, columns = graph.axes[2:]
    fixed: Matrix = (rows, columns) if rows and columns else (0, 0)
    usual = -(-USUAL_MATRIX // found.multiple) * found.multiple
    spec = ModelSpec(
        name=texts.name or source.stem[:256] or "adopted",
        architecture="adopted",
        upscale=found.upscale,
        image_channels=how.channels,
        matrix=fixed if any(fixed) else (usual, usual),
        matrix_multiple=found.multiple,
        padding=padding,
        fixed_matrix=fixed,
        lowering="none",
        normaliser="none" if limits is None else "slice-max",
        input_range=limits or (),
        output_grid=grid or "pixel-centre",
        data_consistency=contracts.data_consistency,
        homogeneous=contracts.homogeneous,
        output_range=contracts.output_range or (),
        opset=graph.opset,
        description=texts.description,
        provenance=_provenance(graph, texts),
    )
    _require_batch_of_slices(graph, own, spec)
    candidate, slices = _candidate(graph, how, spec, own, found.output_channels, output.name)
    report_step("measuring where its samples lie")
    candidate = _on_its_grid(candidate, own, grid)
    require_contracts(candidate.spec, _reference(own, candidate.spec))
    name = f"{graph.name} itself in fp32 ({BACKEND})"
    reference = Reference(run=_reference(own, candidate.spec), name=name)
    proved = prove(
        candidate,
        reference,
        "fp32",
        runtime=BACKEND,
        backend=BACKEND,
        notes={"adopted_from": graph.sha256},
        report_file=report_file,
    )
    remarks = [_summary(proved.spec, how, slices)]
    if graph.original is not None:
        remarks.append(_as_narrow(graph, how, candidate.spec, reference))
    replace_file(output, proved.content)
    return Adopted(
        path=output,
        spec=parse_model(proved.content, name=output.name).spec,
        report=proved.report,
        size_bytes=len(proved.content),
        remarks=(*remarks, *proved.remarks),
    )


def _candidate(
    graph: ForeignGraph,
    how: Normalisation,
    spec: ModelSpec,
    own: ForeignRuntime,
    output_channels: int,
    name: str,
) -> tuple[ModelFile, str]:
    """Return the wrapped graph, for as many slices as it takes, and a sentence on how many.

    A graph may be written for one slice, or for four, though nothing in it says so, and one that is
    said to be for so many may take any number: all is tried.
    """
    problem: KspaceSRError | None = None
    for way in _ways(graph):
        tried = dataclasses.replace(spec, single_slice=way.single)
        proto = normalised(
            way.graph,
            how,
            spec.matrix,
            spec.upscale,
            output_channels=output_channels,
            single_slice=way.single,
            copies=way.copies,
        )
        candidate = ModelFile(name=name, proto=proto, spec=tried, size_bytes=0)
        try:
            _require_slices_apart(candidate, _reference(own, tried))
        except KspaceSRError as exc:
            problem = problem or exc
        else:
            return candidate, way.slices
    assert problem is not None
    if isinstance(problem, ModelFileError):
        raise ModelFileError(str(problem), hint=HINT_ON_GRAPHS) from problem
    raise problem


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """One way to give slices to a network."""

    graph: ForeignGraph
    slices: str
    """How many it is given, in words."""
    single: bool = False
    copies: int = 1
    """Of a slice that is given alone."""


def _ways(graph: ForeignGraph) -> list[_Way]:
    """Return the ways that are tried, the one that costs least first."""
    batch = graph.axes[0] or 1
    several = "any number of slices"
    ways = [
        _Way(graph=graph, slices=several),
        _Way(graph=graph, slices="one slice at a time", single=True),
    ]
    if batch == 1:
        return ways
    ways[0] = _Way(graph=graph, slices=f"{several}, though its file states {batch}")
    if (opened := with_open_batch(graph)) is not None:
        how = f"{several}: the batch of {batch} that stands in its shapes was opened"
        ways.insert(1, _Way(graph=opened, slices=how))
    slow = (
        f"one slice at a time, of which each is computed {batch} times: its graph is made for "
        f"batches of {batch}, and runs faster if it is exported with an open batch"
    )
    return [*ways, _Way(graph=graph, slices=slow, single=True, copies=batch)]


def _require_slices_apart(candidate: ModelFile, reference: Run) -> None:
    """Check that slices given at once come out as each does by itself.

    Raises
    ------
    ModelFileError
        If the graph does not take them, or holds what a model file must not.
    ParityError
        If they come out otherwise.
    """
    matrix = _probe_matrix(candidate.spec)
    slices = _unlike_slices(matrix)
    expected = [reference(np.ascontiguousarray(one)) for one in slices]
    bound = bind(candidate, matrix)
    with open_backend(BACKEND, bound) as opened:
        for n in TRIED_BATCHES:
            try:
                together = opened.run(np.ascontiguousarray(slices[:n, None]))[:, 0]
            except KspaceSRError:
                raise
            except Exception as exc:  # ONNX Runtime raises classes of its own C++ layer
                raise ModelFileError(f"{candidate.name}: does not take {n} slices at once") from exc
            if len(together) != n:
                raise ModelFileError(f"{candidate.name}: makes {len(together)} slices of {n}")
            for one, other in zip(together, expected, strict=False):
                _require_same(candidate.name, one, other)


def _probe_matrix(spec: ModelSpec) -> Matrix:
    return spec.matrix if any(spec.fixed_matrix) else (48, 45)


def _unlike_slices(matrix: Matrix) -> FloatArray:
    """Return slices of other maximum, mean and spread, also once divided by their maximum."""
    phantom = brain_phantom(matrix).astype(np.float32)
    return np.stack([phantom, phantom[::-1] ** 2 * 0.5, (1.5 - phantom) * 300.0])


def _require_batch_of_slices(graph: ForeignGraph, own: ForeignRuntime, spec: ModelSpec) -> None:
    """Check that what a file for several slices makes of one depends on that one alone.

    Of a file that is not so nothing says what it makes of a single slice.

    Raises
    ------
    ParityError
        If it depends on the others of its batch, or on its place among them.
    """
    batch = graph.axes[0] or 1
    if batch == 1:
        return
    slices = _unlike_slices(spec.network_matrix(_probe_matrix(spec)))[:, None]
    alone = [own.slices(one[None])[0, 0] for one in slices]
    for at in range(0, len(slices), batch):
        together = own.slices(np.ascontiguousarray(slices[at : at + batch]))[:, 0]
        for one, other in zip(together, alone[at:], strict=False):
            if psnr_between(one, other, float(np.abs(other).max()) or 1.0) < LEAST_APART:
                raise ParityError(
                    f"{graph.name}: its file takes {batch} slices at once, and what it makes of "
                    "one depends on the others or on its place among them",
                    hint="export it for one slice, in evaluation mode",
                )


def _require_same(name: str, together: FloatArray, alone: FloatArray) -> None:
    """Check what came of a slice among others against what comes of it alone.

    Raises
    ------
    ParityError
        If it is not the same.
    """
    top = float(np.abs(alone).max())
    same = np.isfinite(together).all() and top > 0.0
    agreement = psnr_between(together, alone, top) if same else -np.inf
    if agreement >= LEAST_APART:
        return
    if not np.isfinite(alone).all():
        raise ParityError(
            f"{name}: its network gives NaN or infinity",
            hint="is it given the range it was trained on? --range 0..255, or none",
        )
    raise ParityError(
        f"{name}: slices that are given at once come out otherwise than one by one "
        f"({agreement:.0f} dB)"
    )


def _reference(own: ForeignRuntime, spec: ModelSpec) -> Run:
    """Return the network's own runtime as a function of one slice, padded as the file says."""

    def run(lr: FloatArray) -> FloatArray:
        return padded(lambda image: own.slices(image[None, None])[0, 0], lr, spec)

    return run


def _on_its_grid(candidate: ModelFile, own: ForeignRuntime, asked: OutputGrid | None) -> ModelFile:
    """Return the model with the grid its samples are on, and how that is known."""
    if asked is not None:
        return candidate
    for grid in get_args(OutputGrid):
        # Where padding begins follows from the grid, so that each has its own reference.
        spec = dataclasses.replace(candidate.spec, output_grid=grid, grid_source="measured")
        placement = find_placement(spec, _reference(own, spec))
        if placement.conclusive and placement.passed:
            return dataclasses.replace(candidate, spec=spec)
    spec = dataclasses.replace(candidate.spec, grid_source="assumed")
    return dataclasses.replace(candidate, spec=spec)


def _summary(spec: ModelSpec, how: Normalisation, slices: str) -> str:
    """Say in a line what was measured of a network."""
    limits = f"{how.limits[0]:g} to {how.limits[1]:g}" if how.limits else "values as they are"
    channels = f"{how.channels} channel{'s' * (how.channels > 1)}"
    matrices = matrices_text(spec)
    return f"upscales by {spec.upscale}; {matrices}; {channels}, {limits}; {slices}"


def _as_narrow(graph: ForeignGraph, how: Normalisation, spec: ModelSpec, wide: Reference) -> str:
    """Compare what is computed in fp32 with the half-precision file as its makers run it.

    Raises
    ------
    ParityError
        If they have nothing to do with each other.
    """
    assert graph.original is not None
    matrix = spec.network_matrix(spec.matrix)
    lr = brain_phantom(matrix).astype(np.float32)
    try:
        narrow = ForeignRuntime(dataclasses.replace(graph, content=graph.original), how)
        result = narrow.slices(lr[None, None])[0, 0]
    except InputError as exc:
        return f"its half precision was widened to fp32, and does not run here as it was: {exc}"
    expected = wide.run(lr)
    agreement = psnr_between(result, expected, float(np.abs(expected).max()))
    if not agreement >= LEAST_AS_NARROW:
        raise ParityError(
            f"{graph.name}: in fp32 it does not compute what it computes in half precision "
            f"({agreement:.0f} dB, {LEAST_AS_NARROW:.0f} are required); no file was written"
        )
    return (
        f"its half precision was widened to fp32: {agreement:.0f} dB to the file as it was; "
        "kspacesr-rt convert narrows it again, proved"
    )


def _provenance(graph: ForeignGraph, texts: Texts) -> Provenance:
    versions = {
        **installed_versions(["onnx", "onnxruntime"]),
        "kspacesr-rt": __version__,
        "python": platform.python_version(),
    }
    if graph.producer:
        versions["producer"] = graph.producer
    return Provenance(
        checkpoint_sha256=graph.sha256,
        created=output_time().isoformat(timespec="seconds"),
        versions=versions,
        training=texts.training,
        licence=texts.licence,
        attribution=texts.attribution,
    )
