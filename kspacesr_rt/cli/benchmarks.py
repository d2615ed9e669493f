"""Commands that measure speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kspacesr_rt.cli.shell import AsJson, Quiet, app, echo_json, progress_bar


@app.command()
def bench(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model files or names; seed-x2: the seed's shape. Default: x2 models."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(exists=True, help="HR images; default: the shipped sample.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Slices a call.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes every core.")] = 1,
    peers: Annotated[bool, typer.Option(help="Also what is not ours.")] = True,
    only: Annotated[
        list[str] | None, typer.Option(help="Word of a row's label, such as openvino or int8.")
    ] = None,
    scaling: Annotated[
        list[str] | None, typer.Option(help="Backend to follow over matrix, batch and threads.")
    ] = None,
    budget: Annotated[float, typer.Option(min=1.0, help="Seconds of timing.")] = 300.0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON to write.")] = None,
    csv: Annotated[Path | None, typer.Option(help="CSV to write.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency, image quality and parity of every runtime in one table."""
    from kspacesr_rt.bench.bench_tables import as_csv, as_text, scaling_text
    from kspacesr_rt.bench.benchmark import BenchOptions, benchmark
    from kspacesr_rt.files import replace_file
    from kspacesr_rt.model_file import shipped_models

    shipped = tuple(name for name in sorted(shipped_models()) if name.startswith("x2"))
    options = BenchOptions(
        models=tuple(model or shipped),
        data=data,
        batches=tuple(batch or (1,)),
        threads=threads,
        peers=peers,
        only=tuple(only or ()),
        budget_s=budget,
        scaling=tuple(scaling or ()),
    )
    with progress_bar("rows", quiet) as update:
        result = benchmark(options, on_progress=update)
    if output is not None:
        replace_file(output, json.dumps(result.to_dict(), indent=1).encode())
    if csv is not None:
        replace_file(csv, as_csv(result.rows).encode())
    if as_json:
        echo_json(result.to_dict())
    elif not quiet:
        typer.echo(as_text(result.rows))
        if result.scaling:
            typer.echo(f"\n{scaling_text(result.scaling)}")
