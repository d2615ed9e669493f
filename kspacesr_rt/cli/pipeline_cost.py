"""The commands that measure what is around a backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kspacesr_rt.cli.benchmarks import bench_app
from kspacesr_rt.cli.options import AsJson, ConfigFile, Quiet, ShowPaths
from kspacesr_rt.cli.progress import progress_bar
from kspacesr_rt.cli.shell import echo_json, print_text
from kspacesr_rt.system.counts import PROCESSES_MOST

if TYPE_CHECKING:
    from kspacesr_rt.bench.run.pipeline_cost import PipelineCost
    from kspacesr_rt.bench.run.soak import Soak


@bench_app.command()
def pipeline(
    backend: Annotated[
        str, typer.Option(help="null repeats samples; or any backend of infer.")
    ] = "null",
    slices: Annotated[int, typer.Option(min=1, help="Slices, of 256 x 256.")] = 200,
    matrix: Annotated[
        list[int] | None, typer.Option(min=8, max=4096, help="LR rows and columns; 256.")
    ] = None,
    processes: Annotated[
        list[int] | None,
        typer.Option(
            min=0, max=PROCESSES_MOST, help="Processes that read and write; repeatable: 0, 1, 2."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns whose medians are given.")] = 5,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON to write.")] = None,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Measure the way from DICOM to DICOM: processor time a slice by stage, beside a plain loop."""
    from kspacesr_rt.bench.run.pipeline_cost import PipelineOptions, measure_pipeline

    options = PipelineOptions(
        backend=backend,
        slices=slices,
        matrices=tuple(matrix or (256,)),
        rounds=rounds,
        processes=tuple(processes or (0, 1, 2)),
    )
    with progress_bar("bench pipeline", quiet, lines=True) as update:
        cost = measure_pipeline(options, lambda step: update(None, None, step))
    _tell(cost, output, as_json=as_json, quiet=quiet)


@bench_app.command()
def soak(
    slices: Annotated[int, typer.Option(min=100, help="Slices that are run through.")] = 20_000,
    matrix: Annotated[int, typer.Option(min=8, max=4096, help="LR rows and columns.")] = 64,
    processes: Annotated[
        int,
        typer.Option(
            min=0,
            max=PROCESSES_MOST,
            help="Processes that read and write, beside one that computes.",
        ),
    ] = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON to write.")] = None,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Run through a large archive: memory, open files and speed from start to end.

    On a backend that repeats samples. Every output is read again afterwards. Needs Linux.
    """
    from kspacesr_rt.bench.run.soak import SoakOptions
    from kspacesr_rt.bench.run.soak import soak as run_soak

    options = SoakOptions(slices=slices, matrix=matrix, processes=processes)
    with progress_bar("bench soak", quiet, lines=True) as update:
        result = run_soak(options, lambda step: update(None, None, step))
    _tell(result, output, as_json=as_json, quiet=quiet)


def _tell(found: PipelineCost | Soak, output: Path | None, *, as_json: bool, quiet: bool) -> None:
    """Write and print what was measured."""
    from kspacesr_rt.system.files import replace_file

    if output is not None:
        replace_file(output, json.dumps(found.to_dict(), indent=1).encode())
    if as_json:
        echo_json(found.to_dict())
    elif not quiet:
        print_text(found.as_text())
