"""The command that measures models beside the baselines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kspacesr_rt.cli.options import (
    INPUT,
    OUTPUT,
    AsJson,
    BackendName,
    ConfigFile,
    ModelNames,
    Quiet,
    ShowPaths,
    Threads,
    Verbose,
)
from kspacesr_rt.cli.shell import app, echo_json, failures_json, print_failures, print_text
from kspacesr_rt.errors import InputError

if TYPE_CHECKING:
    from kspacesr_rt.model.file import ModelFile


@app.command()
def evaluate(
    data: Annotated[list[Path], typer.Argument(exists=True, help="Folders of HR images.")],
    model: ModelNames = None,
    backend: BackendName = "ort-cpu",
    threads: Threads = 0,
    picture: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT, help="Also draw the first model's middle slice as PNG."
        ),
    ] = None,
    cards: Annotated[
        bool,
        typer.Option(
            "--cards",
            rich_help_panel=OUTPUT,
            help="Store the result in each model file and its card.",
        ),
    ] = False,
    proofs: Annotated[
        bool,
        typer.Option(
            "--proofs",
            rich_help_panel=OUTPUT,
            help="Also measure whether added detail is real: gain against the noise ceiling, ring "
            "correlation, planted lesions, tissue classes.",
        ),
    ] = False,
    acr: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            rich_help_panel=INPUT,
            help="With --proofs: series of the ACR phantom, whose holes are judged.",
        ),
    ] = None,
    body_part: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="With --cards: Body Part Examined that the models were made for; repeatable. "
            "Default: as their files say.",
        ),
    ] = None,
    on_interpolated: Annotated[
        Literal["crop", "warn"],
        typer.Option(
            rich_help_panel=INPUT,
            help="What to do with HR that a scanner interpolated: crop it to what was acquired, "
            "or judge it as it is.",
        ),
    ] = "crop",
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
    verbose: Verbose = False,
) -> None:
    """Evaluate models beside zero-fill and bicubic on HR images they never saw.

    Where a model takes k-space, DATA is measured k-space: .npy (n, ky, kx) or fastMRI .h5.
    """
    from kspacesr_rt.bench.quality.cards import write_card
    from kspacesr_rt.bench.quality.comparison_picture import comparison
    from kspacesr_rt.bench.quality.evaluation import HEADLINE, SHOWN, as_text, evaluate_models
    from kspacesr_rt.bench.quality.hallucination import as_text as hallucination_text
    from kspacesr_rt.bench.quality.hallucination import measure, why_not_measured
    from kspacesr_rt.bench.quality.kspace_evaluation import evaluate_on_kspace, takes_kspace
    from kspacesr_rt.bench.quality.limits import as_text as limits_text
    from kspacesr_rt.bench.quality.limits import measure_limits
    from kspacesr_rt.bench.quality.open_model import with_distinct_names
    from kspacesr_rt.bench.quality.proofs.measure import as_text as proofs_text
    from kspacesr_rt.bench.quality.proofs.measure import measure_proofs
    from kspacesr_rt.bench.run.environment import environment
    from kspacesr_rt.model.file import load_model, resolve_model, shipped_models
    from kspacesr_rt.runtime.backends import BackendOptions
    from kspacesr_rt.runtime.selection import choose_backend
    from kspacesr_rt.system.files import replace_file
    from kspacesr_rt.train.file_failures import Reading

    reading = Reading(show_paths=show_paths, show_folders=cards)
    paths = [resolve_model(name, upscale=None) for name in model or list(shipped_models())]
    read = [load_model(path) for path in paths]
    models = with_distinct_names(read)
    if cards:
        _require_own_names(read, models, "--cards")
    options = BackendOptions(threads=threads)
    choices = {one.spec.name: choose_backend(backend, one, options) for one in models}
    for name, choice in choices.items():
        if backend != choice.backend:
            print_text(f"{name}: {choice.as_text(verbose=verbose)}", err=True)

    def note(sentence: str) -> None:
        if not quiet:
            print_text(sentence, err=True)

    shared: dict[str, Any] = {
        "backend": backend,
        "threads": threads,
        "conventions": SHOWN,
        "reading": reading,
        "on_note": note,
    }
    if takes_kspace(models):
        if proofs or picture is not None:
            raise InputError(
                "--proofs and --picture are of networks of images",
                hint="a network of k-space is judged on measured k-space without them",
            )
        rows = evaluate_on_kspace(data, models, **shared)
    else:
        rows = evaluate_models(data, models, on_interpolated=on_interpolated, **shared)
    if cards and reading.failures:
        print_text(
            "warning: no card is written: figures of a part of the data would stand in it", err=True
        )
        cards = False
    measured = [
        None
        if takes_kspace(models) or (not one.spec.is_own and why_not_measured(one.spec))
        else measure(one, data, backend=backend, threads=threads, reading=reading)
        for one in models
        if cards
    ]
    limited = {
        one.spec.name: measure_limits(
            one,
            data,
            body_parts=body_part or (),
            backend=backend,
            threads=threads,
            reading=reading,
        )
        for one, hallucination in zip(models, measured, strict=False)
        if hallucination is not None
    }
    proven = {
        one.spec.name: measure_proofs(
            one, data, acr=acr, backend=backend, threads=threads, reading=reading
        )
        for one in models
        if proofs and not why_not_measured(one.spec)
    }
    for path, one, hallucination in zip(paths, models, measured, strict=False):
        stated, _ = limited.get(one.spec.name, (None, []))
        figures = proven[one.spec.name].figures() if one.spec.name in proven else None
        write_card(path, rows, hallucination, stated, figures)
    found = [one for one in measured if one is not None]
    if picture is not None:
        drawn = comparison(data[0], models[0], backend=backend, threads=threads, reading=reading)
        replace_file(picture, drawn)
    if as_json:
        echo_json(
            {
                "environment": environment(),
                "backends": {name: choice.to_dict() for name, choice in choices.items()},
                "weights": {one.spec.name: one.spec.provenance.weights_sha256 for one in models},
                "rows": [dataclasses.asdict(row) for row in rows],
                "invention": [one.to_dict() for one in found],
                "proofs": {
                    one.spec.name: {
                        "weights_sha256": one.spec.provenance.weights_sha256,
                        **proven[one.spec.name].to_dict(),
                    }
                    for one in models
                    if one.spec.name in proven
                },
                "limits": {
                    name: {
                        "limits": stated.to_dict(),
                        "cases": [dataclasses.asdict(case) for case in cases],
                    }
                    for name, (stated, cases) in limited.items()
                },
                **failures_json(reading),
            }
        )
    else:
        print_text(as_text(rows))
        print_text(f"\nThe README and model cards quote the convention {HEADLINE} first.")
        if found:
            print_text(f"\n{hallucination_text(found)}")
        if proven:
            print_text(f"\n{proofs_text(list(proven.values()))}")
        if limited:
            print_text(f"\n{limits_text(limited)}")
    print_failures(reading)


def _require_own_names(read: list[ModelFile], models: list[ModelFile], option: str) -> None:
    """Refuse to write into files what was measured under names that are not theirs."""
    for own, one in zip(read, models, strict=True):
        if own.spec.name != one.spec.name:
            raise InputError(
                f"{option} of several models that are called '{own.spec.name}' cannot tell them "
                "apart",
                hint="judge each in a run of its own",
            )


@app.command()
def trust(
    data: Annotated[
        list[Path], typer.Argument(exists=True, help="Folders of HR images to judge on.")
    ],
    model: ModelNames = None,
    calibrate_on: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            rich_help_panel=INPUT,
            help="First calibrate on these HR images, and store that in each model file and its "
            "card; repeatable.",
        ),
    ] = None,
    backend: BackendName = "ort-cpu",
    threads: Threads = 0,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    config: ConfigFile = None,
) -> None:
    """Measure how often HR lies within the intervals that models state around their results."""
    from kspacesr_rt.bench.quality.cards import write_card
    from kspacesr_rt.bench.quality.open_model import with_distinct_names
    from kspacesr_rt.bench.quality.trust import as_text, calibrate, coverage_of, means_of
    from kspacesr_rt.bench.run.environment import environment
    from kspacesr_rt.model.file import load_model, resolve_model, shipped_models
    from kspacesr_rt.model.trust_calibration import TrustCalibration
    from kspacesr_rt.train.file_failures import Reading

    reading = Reading(show_paths=show_paths, show_folders=bool(calibrate_on))
    paths = [resolve_model(name, upscale=None) for name in model or list(shipped_models())]
    read = [load_model(path) for path in paths]
    models = with_distinct_names(read)
    if calibrate_on:
        _require_own_names(read, models, "--calibrate-on")
    stated = {}
    if not calibrate_on:  # a file without is refused before minutes are spent
        stated = {one.spec.name: TrustCalibration.of(one.spec) for one in models}
    found = {}
    for path, one in zip(paths, models, strict=True):
        name = one.spec.name
        if not quiet:
            print_text(f"{name}: {'calibrating' if calibrate_on else 'judging'}", err=True)
        calibration = stated.get(name) or calibrate(
            one, calibrate_on or (), backend=backend, threads=threads, reading=reading
        )
        held = coverage_of(
            one, calibration, data, backend=backend, threads=threads, reading=reading
        )
        reading.require_any(held)
        found[name] = dataclasses.replace(calibration, measured=means_of(held))
        if calibrate_on and not reading.failures:
            write_card(path, None, trust=found[name])
    if calibrate_on and reading.failures:
        print_text(
            "warning: no card is written: figures of a part of the data would stand in it", err=True
        )
    if as_json:
        echo_json(
            {
                "environment": environment(),
                "weights": {one.spec.name: one.spec.provenance.weights_sha256 for one in models},
                "trust": {name: one.to_dict() for name, one in found.items()},
                **failures_json(reading),
            }
        )
    else:
        print_text(as_text(found))
    print_failures(reading)
