"""Commands about this machine: what runs here, and what is missing."""

from __future__ import annotations

import typer

from kspacesr_rt.cli.shell import AsJson, app, echo_json


@app.command()
def backends(as_json: AsJson = False) -> None:
    """List what can run a model here, and why the others cannot."""
    from kspacesr_rt.backends import BACKENDS

    if as_json:
        rows = {
            name: {"usable": info.why_not() is None, "why_not": info.why_not(), "hint": info.hint()}
            for name, info in BACKENDS.items()
        }
        echo_json(rows)
        return
    for name, info in BACKENDS.items():
        reason = info.why_not()
        typer.echo(f"{name:<12} {'yes' if reason is None else 'no ':<4} {info.summary}")
        if reason is not None:
            typer.echo(f"{'':<17} {reason}; {info.hint()}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show what this machine has, what clashes, and what to install."""
    from kspacesr_rt.doctor import diagnose_machine

    found = diagnose_machine()
    if as_json:
        echo_json(found.to_dict())
    else:
        typer.echo(found.as_text())
