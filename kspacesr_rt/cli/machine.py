"""Commands about this machine: what runs here, and what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

from kspacesr_rt.cli.shell import AsJson, app, echo_json, say


@app.command()
def backends(
    model: Annotated[
        str | None, typer.Option(help="For which `auto` chooses; default: the shipped x2 model.")
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Verify anew: forget what was measured before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List what can run a model here, why the others cannot, and what `auto` takes."""
    from kspacesr_rt.backends import BACKENDS
    from kspacesr_rt.selection import preview_choice
    from kspacesr_rt.verified import VerificationCache

    if forget:
        n_forgotten = VerificationCache().forget()
        say(f"{n_forgotten} verifications forgotten", err=True)
    chosen = preview_choice(model)
    if as_json:
        rows: dict[str, object] = {
            name: {"usable": info.why_not() is None, "why_not": info.why_not(), "hint": info.hint()}
            for name, info in BACKENDS.items()
        }
        echo_json({**rows, "auto": chosen.to_dict()})
        return
    for name, info in BACKENDS.items():
        reason = info.why_not()
        say(f"{name:<12} {'yes' if reason is None else 'no ':<4} {info.summary}")
        if reason is not None:
            say(f"{'':<17} {reason}; {info.hint()}")
    say(chosen.as_text())


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show what this machine has, what clashes, and what to install."""
    from kspacesr_rt.doctor import diagnose_machine

    found = diagnose_machine()
    if as_json:
        echo_json(found.to_dict())
    else:
        say(found.as_text())
