"""Commands about this machine: what runs here, and what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from kspacesr_rt.cli.options import MODEL, AsJson, ConfigFile, ModelName, ShowPaths
from kspacesr_rt.cli.shell import app, echo_json, print_text


@app.command()
def backends(
    model: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MODEL, help="For which `auto` chooses; default: the shipped x2 model."
        ),
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Verify anew: forget what was measured before.")
    ] = False,
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """List what can run a model here, why the others cannot, and what `auto` takes."""
    from kspacesr_rt.runtime.backends import every_backend, left_out_plugins
    from kspacesr_rt.runtime.selection import preview_choice
    from kspacesr_rt.runtime.self_test_cache import VerificationCache

    if forget:
        n_forgotten = VerificationCache().forget()
        print_text(f"{n_forgotten} verifications forgotten", err=True)
    chosen = preview_choice(model)
    rows = every_backend()
    for sentence in left_out_plugins():
        print_text(f"warning: {sentence}", err=True)
    if as_json:
        states = {
            name: {
                "usable": info.why_not() is None,
                "why_not": info.why_not(),
                "hint": info.hint(),
                "package": info.package,
            }
            for name, info in rows.items()
        }
        echo_json({**states, "auto": chosen.to_dict()})
        return
    for name, info in rows.items():
        reason = info.why_not()
        print_text(f"{name:<12} {'yes' if reason is None else 'no ':<4} {info.summary}")
        if reason is not None:
            print_text(f"{'':<17} {reason}; {info.hint()}")
    print_text(chosen.as_text())


@app.command()
def doctor(
    show_paths: ShowPaths = False, as_json: AsJson = False, config: ConfigFile = None
) -> None:
    """Show what this machine has, what clashes, what to install, and what each tier runs on."""
    from kspacesr_rt.conversion.tier_preview import preview_tiers
    from kspacesr_rt.runtime.doctor import diagnose_machine

    found, tiers = diagnose_machine(), preview_tiers()
    if as_json:
        echo_json({**found.to_dict(), "tiers": {one.tier: one.to_dict() for one in tiers}})
    else:
        print_text("\n".join([*(one.as_text() for one in tiers), "", found.as_text()]))


@app.command()
def targets(
    gpus: Annotated[
        list[str] | None, typer.Argument(metavar="[GPU]...", help="Names; default: all.")
    ] = None,
    model: ModelName = None,
    matrix: Annotated[
        tuple[int, int],
        typer.Option(metavar="ROWS COLUMNS", rich_help_panel=MODEL, help="Of a slice, LR."),
    ] = (256, 256),
    show_paths: ShowPaths = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """List GPUs by name: what runs there, and the least time a model could take, an estimate."""
    from kspacesr_rt.model.file import load_model, resolve_model
    from kspacesr_rt.runtime.gpu_targets import describe_targets, targets_text

    found = load_model(resolve_model(model, upscale=None))
    choices = describe_targets(gpus or (), found, matrix)
    if as_json:
        echo_json({"estimated": True, "targets": [one.to_dict() for one in choices]})
    else:
        print_text(targets_text(choices, found.spec.name, matrix))
