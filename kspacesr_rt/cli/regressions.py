"""Commands that compare measurements: of two machines or commits, and with the baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kspacesr_rt.cli.benchmarks import MEASURED_WITH, bench_app
from kspacesr_rt.cli.options import AsJson, ConfigFile, Quiet, ShowPaths
from kspacesr_rt.cli.progress import progress_bar
from kspacesr_rt.cli.shell import echo_json, print_text, require_packages
from kspacesr_rt.system.counts import THREADS_MOST

Result = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `bench -o` wrote.")]


@bench_app.command()
def compare(
    before: Result,
    after: Result,
    markdown: Annotated[Path | None, typer.Option("--md", help="Markdown to write.")] = None,
    fail_on_regression: Annotated[
        bool, typer.Option("--fail-on-regression", help="Exit 4 if a row got slower or worse.")
    ] = False,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Set two results side by side: of two machines, or of two commits."""
    from kspacesr_rt.bench.regression.compare import compare_results
    from kspacesr_rt.bench.regression.compare_report import as_dict, as_markdown, as_text
    from kspacesr_rt.bench.run.stored_result import read_result
    from kspacesr_rt.system.files import replace_file

    comparison = compare_results(read_result(before), read_result(after))
    if markdown is not None:
        replace_file(markdown, as_markdown(comparison).encode())
    if as_json:
        echo_json(as_dict(comparison))
    elif not quiet:
        print_text(as_text(comparison))
    if fail_on_regression:
        comparison.require_no_regression()


@bench_app.command()
def gate(
    baseline: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Baseline; default: the one shipped.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Measure this machine's baseline, and store it.")
    ] = False,
    threads: Annotated[
        int, typer.Option(min=1, max=THREADS_MOST, help="CPU threads of every row.")
    ] = 1,
    budget: Annotated[float, typer.Option(min=1.0, help="Seconds of rounds.")] = 60.0,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Exit 4 if speed relative to PyTorch, quality or parity is worse than the baseline.

    Speed is gated on machines that the baseline knows. What a restless machine leaves undecided is
    named, and fails nothing.
    """
    from kspacesr_rt.bench.regression import gate

    options = gate.GateOptions(baseline=baseline or gate.BASELINE, threads=threads, budget_s=budget)
    require_packages("bench gate", "bench", *MEASURED_WITH)
    with progress_bar("gate", quiet, lines=True) as progress:
        if update:
            notes = gate.update_baseline(options, progress)
            return echo_json({"notes": list(notes)}) if as_json else print_text("\n".join(notes))
        report = gate.gate(options, progress)
    if as_json:
        echo_json(report.to_dict())
    elif not quiet:
        print_text(report.as_text())
    report.require_passed()
