"""From names a user types to a comparison."""

from __future__ import annotations

from pathlib import Path

from kspacesr_rt.diagnosis.compare import DiagnosisResult, Side, diagnose
from kspacesr_rt.diagnosis.images import choose_image
from kspacesr_rt.diagnosis.runners import REFERENCE, open_runner
from kspacesr_rt.errors import InputError
from kspacesr_rt.kspace import Matrix
from kspacesr_rt.model.binding import bind
from kspacesr_rt.model.file import load_model, resolve_model
from kspacesr_rt.runtime.backends import BackendOptions


def diagnose_files(
    model: str,
    other: str | None,
    *,
    backends: tuple[str, str | None],
    image: Path | None = None,
    matrix: Matrix | None = None,
    tolerance: float = 1e-4,
    options: BackendOptions | None = None,
) -> DiagnosisResult:
    """Compare one model on two backends, or two models.

    Parameters
    ----------
    model, other
        Model files or shipped models' names; without the second, the same model.
    backends
        Of either side; the second is by default ``reference`` for one model, else the first.
    image
        DICOM slice or ``.npy`` array; default: the model's stored input, or the sample.
    matrix
        LR ``(rows, columns)``.
    tolerance
        Largest relative error that is agreement.
    options
        Threads.

    Raises
    ------
    InputError
        If a model, the image or the combination cannot be used.
    BackendUnavailableError
        If a backend cannot run here.
    """
    settings = options or BackendOptions()
    names = (backends[0], backends[1] or (REFERENCE if other is None else backends[0]))
    if other is None and names[0] == names[1]:
        raise InputError(
            f"one model on '{names[0]}' twice is no comparison",
            hint="name another backend with --against, or a second model",
        )
    runners = [open_runner(name, settings) for name in names]
    first = load_model(resolve_model(model, upscale=None))
    second = first if other is None else load_model(resolve_model(other, upscale=None))
    chosen = choose_image(first, image, matrix)
    shape: Matrix = (chosen.lr.shape[0], chosen.lr.shape[1])
    return diagnose(
        Side(bound=bind(first, shape), runner=runners[0]),
        Side(bound=bind(second, shape), runner=runners[1]),
        chosen.lr,
        source=chosen.source,
        tolerance=tolerance,
    )
