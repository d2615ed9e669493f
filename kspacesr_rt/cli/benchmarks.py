"""Commands that measure speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kspacesr_rt.cli.shell import AsJson, Quiet, app, echo_json, progress_bar, say

bench_app = typer.Typer(no_args_is_help=False)
app.add_typer(bench_app, name="bench")


@bench_app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
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
    suite: Annotated[
        bool, typer.Option("--suite", help="Run the suites of pytest-benchmark instead.")
    ] = False,
    md: Annotated[Path | None, typer.Option(help="Markdown to write.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Report to write: one page with charts and a viewer.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Keep the report's pictures in the JSON, too.")
    ] = False,
    stored: Annotated[
        Path | None,
        typer.Option("--from", help="JSON of an earlier run to write reports from; no timing."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency, image quality and parity of every runtime in one table."""
    if context.invoked_subcommand is not None:
        return _refuse_others(context, (), f"bench {context.invoked_subcommand}")
    if suite:
        _refuse_others(context, ("suite", "only", "output", "quiet"), "bench --suite")
        from kspacesr_rt.bench.suite_runner import run_suites

        return run_suites(output=output, only=tuple(only or ()), quiet=quiet)
    from kspacesr_rt.bench.bench_tables import as_csv, as_text, scaling_text
    from kspacesr_rt.bench.benchmark import BenchOptions, benchmark
    from kspacesr_rt.bench.html_report import as_html
    from kspacesr_rt.bench.markdown_report import as_markdown, scaling_of
    from kspacesr_rt.bench.stored import read_result, rows_of
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
        pictures=html is not None or pictures,
    )
    if stored is not None:
        _refuse_measuring(context)
        result = read_result(stored)
    else:
        with progress_bar("rows", quiet) as update:
            result = benchmark(options, on_progress=update).to_dict(pictures=options.pictures)
    figures = {name: value for name, value in result.items() if pictures or name != "pictures"}
    rows, curves = rows_of(result), scaling_of(result)
    if output is not None:
        replace_file(output, json.dumps(figures, indent=1).encode())
    if csv is not None:
        replace_file(csv, as_csv(rows).encode())
    if md is not None:
        replace_file(md, as_markdown(result).encode())
    if html is not None:
        replace_file(html, as_html(result).encode())
    if as_json:
        echo_json(figures)
    elif not quiet:
        say(as_text(rows))
        if curves:
            say(f"\n{scaling_text(curves)}")


MEASURING = ("model", "data", "batch", "threads", "peers", "only", "scaling", "budget")
"""Options that say what is measured."""


def _refuse_measuring(context: typer.Context) -> None:
    """Raise if an option that ``--from`` would ignore was given."""
    from kspacesr_rt.errors import InputError

    given = [
        f"--{name}"
        for name in MEASURING
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    if given:
        raise InputError(
            f"--from measures nothing, so {' and '.join(given)} cannot go with it",
            hint="leave them out, or leave out --from to measure",
        )


def _refuse_others(context: typer.Context, kept: tuple[str, ...], command: str) -> None:
    """Raise if an option of `bench` was given that nothing would read."""
    from kspacesr_rt.errors import InputError

    given = [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name not in kept
        and (source := context.get_parameter_source(parameter.name or ""))
        and source.name == "COMMANDLINE"
    ]
    if given:
        raise InputError(
            f"'{command}' does not take {' and '.join(given)} of bench",
            hint="its own options follow it; see kspacesr-rt bench --help",
        )
