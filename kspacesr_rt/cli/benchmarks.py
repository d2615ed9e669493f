"""Commands that measure speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from kspacesr_rt.cli.options import (
    INPUT,
    MODEL,
    OUTPUT,
    SPEED,
    AsJson,
    ConfigFile,
    ModelNames,
    Quiet,
    ShowPaths,
    Threads,
)
from kspacesr_rt.cli.progress import progress_bar
from kspacesr_rt.cli.shell import (
    App,
    app,
    echo_json,
    print_failures,
    print_option_sources,
    print_text,
    require_packages,
)
from kspacesr_rt.system.counts import BATCH_MOST

bench_app = App(no_args_is_help=False)
app.add_typer(bench_app, name="bench")


@bench_app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    model: ModelNames = None,
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, rich_help_panel=INPUT, help="HR images; default: the shipped sample."
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, max=BATCH_MOST, rich_help_panel=SPEED, help="Slices a call."),
    ] = None,
    threads: Threads = 1,
    peers: Annotated[
        bool, typer.Option(rich_help_panel=MODEL, help="Also what is not ours.")
    ] = True,
    only: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=MODEL, help="Word of a row's label, such as openvino or int8."
        ),
    ] = None,
    scaling: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=SPEED, help="Backend to follow over matrix, batch and threads."
        ),
    ] = None,
    budget: Annotated[
        float, typer.Option(min=1.0, rich_help_panel=SPEED, help="Seconds of timing.")
    ] = 300.0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", rich_help_panel=OUTPUT, help="JSON to write.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(rich_help_panel=OUTPUT, help="CSV to write.")] = None,
    suite: Annotated[
        bool,
        typer.Option(
            "--suite", rich_help_panel=SPEED, help="Run the suites of pytest-benchmark instead."
        ),
    ] = False,
    profile: Annotated[
        Literal["smoke"] | None,
        typer.Option(
            rich_help_panel=SPEED,
            help="smoke: on a machine with a GPU, checks in order of worth, in four minutes.",
        ),
    ] = None,
    md: Annotated[
        Path | None, typer.Option(rich_help_panel=OUTPUT, help="Markdown to write.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT, help="Report to write: one page with charts and a viewer."
        ),
    ] = None,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures",
            rich_help_panel=OUTPUT,
            help="Keep the report's pictures in the JSON, too.",
        ),
    ] = False,
    stored: Annotated[
        Path | None,
        typer.Option(
            "--from",
            rich_help_panel=INPUT,
            help="JSON of an earlier run to write reports from; no timing.",
        ),
    ] = None,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Measure latency, image quality and parity of every runtime in one table.

    The model seed-x2 is the shape of SR_kspace's network, with no trained weights.
    """
    if context.invoked_subcommand is not None:
        return _refuse_others(context, (), f"bench {context.invoked_subcommand}")
    print_option_sources(context)
    if profile is not None:
        kept = ("profile", "only", "budget", "output", "as_json", "quiet")
        _refuse_others(context, kept, "bench --profile smoke")
        seconds = budget if _was_given(context, "budget") else None
        return _smoke(tuple(only or ()), output, seconds, as_json=as_json, quiet=quiet)
    if suite:
        require_packages("bench --suite", "bench", "pytest", "pytest_benchmark", *MEASURED_WITH)
        _refuse_others(context, ("suite", "only", "output", "quiet"), "bench --suite")
        from kspacesr_rt.bench.run.suite_runner import run_suites

        return run_suites(output=output, only=tuple(only or ()), quiet=quiet)
    from kspacesr_rt.bench.report.html_report import as_html
    from kspacesr_rt.bench.report.markdown_report import as_markdown, scaling_of
    from kspacesr_rt.bench.report.recommendation import recommended_text
    from kspacesr_rt.bench.report.tables import as_csv, as_text, scaling_text
    from kspacesr_rt.bench.run.benchmark import BenchOptions, benchmark
    from kspacesr_rt.bench.run.stored_result import read_result, rows_of
    from kspacesr_rt.model.file import shipped_models
    from kspacesr_rt.system.files import replace_file
    from kspacesr_rt.train.file_failures import Reading

    reading = Reading(show_paths=show_paths)
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
        require_packages("bench", "bench", *MEASURED_WITH)
        _require_one_of(options.only)
        with progress_bar("bench", quiet, lines=True) as update:
            result = benchmark(options, update, reading).to_dict(pictures=options.pictures)
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
        print_text(as_text(rows))
        if said := recommended_text(rows):
            print_text(f"\n{said}")
        if curves:
            print_text(f"\n{scaling_text(curves)}")
    print_failures(reading)


def _smoke(
    only: tuple[str, ...], output: Path | None, seconds: float | None, *, as_json: bool, quiet: bool
) -> None:
    """Check a GPU; a line a check, as it is done."""
    from kspacesr_rt.bench.run.smoke import BUDGET_S, CheckResult, SmokeReport, run_checks
    from kspacesr_rt.bench.run.smoke_checks import SmokeChecks, choose_gpu_backend

    backend = choose_gpu_backend(only)

    def show(result: CheckResult) -> None:
        if as_json:
            echo_json(result.to_dict())
        elif not quiet:
            print_text(result.as_text())

    report = run_checks(
        SmokeChecks(backend).checks(),
        SmokeReport(backend),
        output=output,
        budget_s=seconds or BUDGET_S,
        on_check=show,
    )
    if not as_json and not quiet:
        print_text(report.as_text())
    report.require_passed()


def _require_one_of(words: tuple[str, ...]) -> None:
    """Refuse to measure when of the backends that are asked for none can run here."""
    from kspacesr_rt.errors import BackendUnavailableError
    from kspacesr_rt.runtime.backends import BACKENDS

    asked = [BACKENDS[word] for word in words if word in BACKENDS]
    reasons = [one.why_not() for one in asked]
    if asked and all(reasons):
        raise BackendUnavailableError(str(reasons[0]), hint=asked[0].hint())


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


MEASURED_WITH = ("torch", "safetensors")
"""Packages without which no row has a reference."""
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
