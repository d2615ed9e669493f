"""`export --triton`: its options, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from kspacesr_rt.cli.options import OUTPUT
from kspacesr_rt.cli.own_networks import matrix_of
from kspacesr_rt.cli.progress import progress_bar
from kspacesr_rt.cli.shell import print_text
from kspacesr_rt.errors import InputError
from kspacesr_rt.system.quantities import size_text

TritonFolder = Annotated[
    Path | None,
    typer.Option(
        "--triton",
        metavar="DIR",
        rich_help_panel=OUTPUT,
        help="Also write a model repository for Triton, KServe or OpenVINO Model Server; of a "
        "model file or a shipped model this alone, without PyTorch.",
    ),
]
RepositoryMatrix = Annotated[
    list[str] | None,
    typer.Option(
        "--matrix",
        metavar="ROWSxCOLUMNS",
        rich_help_panel=OUTPUT,
        help="LR matrix of an entry of the repository. Repeat it.",
    ),
]
OF_REPOSITORY: Final = frozenset(
    {"source", "triton", "matrix", "show_paths", "as_json", "quiet", "config"}
)
"""Parameters of `export` that mean something for a model that is exported already."""


def is_model(source: str) -> bool:
    """Return whether `export` is given a model file or a shipped model's name."""
    from kspacesr_rt.model.file import every_shipped_model

    return source in every_shipped_model() or Path(source).suffix == ".onnx"


def require_output(
    source: str, output: Path | None, triton: Path | None, matrix: list[str] | None
) -> Path:
    """Return where a model file goes.

    Raises
    ------
    InputError
        If nothing says so, or a model is exported already.
    """
    from kspacesr_rt.model.engine_files import require_no_engine_at
    from kspacesr_rt.model.file import resolve_model

    require_no_engine_at(Path(source))
    if is_model(source):
        raise InputError(
            f"{source} is a model already",
            hint="kspacesr-rt convert changes it; --triton DIR makes a model repository of it",
        )
    if output is None and triton is not None and not is_network(source):
        resolve_model(source, upscale=None)  # which says what is near
    if output is None:
        raise InputError("nothing says where the model file goes", hint="-o MODEL.onnx")
    if triton is None and matrix:
        raise InputError("--matrix is of a model repository", hint="--triton DIR")
    if triton is not None:
        from kspacesr_rt.conversion.model_repository import require_free_folder

        require_free_folder(triton)
    return output


def is_network(source: str) -> bool:
    """Return whether `export` is given code, by a path or a module's name."""
    return ":" in source or Path(source).suffix == ".py"


def require_alone(context: typer.Context) -> None:
    """Refuse options that change nothing about a model that is exported already.

    Raises
    ------
    InputError
        If one of them is given; it is named.
    """
    for one in context.command.params:
        given = context.get_parameter_source(one.name or "")
        if given is not None and given.name == "COMMANDLINE" and one.name not in OF_REPOSITORY:
            raise InputError(
                f"{max(one.opts, key=len)}: of what is exported, and the model is exported already",
                hint="kspacesr-rt convert changes a model file",
            )


def write_repository(
    source: str, folder: Path, matrix: list[str] | None, *, quiet: bool, as_json: bool
) -> dict[str, Any]:
    """Write a model repository; say so, and return what ``--json`` says of it."""
    from kspacesr_rt.conversion.model_repository import write_model_repository
    from kspacesr_rt.model.file import load_model, resolve_model
    from kspacesr_rt.system.progress_messages import on_step

    matrices = [found for text in matrix or () if (found := matrix_of(text)) is not None]
    model = load_model(resolve_model(source, upscale=None))
    with progress_bar("export", quiet) as update, on_step(lambda step: update(None, None, step)):
        made = write_model_repository(model, folder, matrices=matrices)
    names = [one.name for one in made.entries]
    if not (quiet or as_json):
        print_text(f"{folder}: {', '.join(names)}; {size_text(made.size_bytes)}")
        print_text(f"ask a server for its known answers: python {folder / 'client.py'} --url URL")
    return {"repository": str(folder), "models": names}
