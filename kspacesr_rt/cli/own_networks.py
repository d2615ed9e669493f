"""`export` of a network of the user's own: its options, and what it prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from kspacesr_rt.errors import InputError

if TYPE_CHECKING:
    from kspacesr_rt.export.exported import Exported
    from kspacesr_rt.model.spec import Precision

OWN: Final = "Networks and weights"

Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        exists=True,
        dir_okay=False,
        rich_help_panel=OWN,
        help="State dictionary (.pt, .pth, .safetensors) that a network's factory is given.",
    ),
]
NetworkUpscale = Annotated[
    int | None,
    typer.Option(
        "--upscale", min=1, max=16, rich_help_panel=OWN, help="SR samples per LR sample and axis."
    ),
]
Multiple = Annotated[
    int | None,
    typer.Option(
        "--multiple",
        min=1,
        max=512,
        rich_help_panel=OWN,
        help="What its matrix is a multiple of; default: found by running it. Others are padded.",
    ),
]
FixedMatrix = Annotated[
    str | None,
    typer.Option(
        "--fixed-matrix", rich_help_panel=OWN, help="The only LR matrix it takes, such as 128x128."
    ),
]
PaddingKind = Annotated[
    Literal["reflect", "kspace"],
    typer.Option("--padding", rich_help_panel=OWN, help="How other matrices are padded."),
]
InputKind = Annotated[
    Literal["image", "kspace"],
    typer.Option(
        "--input",
        rich_help_panel=OWN,
        help="kspace: it takes (n, 2, ky, kx), or with --coils (n, coils, 2, ky, kx).",
    ),
]
Coils = Annotated[
    int, typer.Option("--coils", min=0, rich_help_panel=OWN, help="Of an input of k-space.")
]
KspaceOutput = Annotated[
    bool,
    typer.Option(
        "--kspace-output", rich_help_panel=OWN, help="It gives k-space in the shape of its input."
    ),
]
Homogeneous = Annotated[
    bool,
    typer.Option(
        "--homogeneous",
        rich_help_panel=OWN,
        help="Declare that scaling a slice scales its result; checked on every slice.",
    ),
]
OutputRange = Annotated[
    str | None,
    typer.Option(
        "--output-range",
        rich_help_panel=OWN,
        help="Declare the range of results in shares of a slice's maximum, such as 0..1.2.",
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        "--time-limit",
        min=1.0,
        rich_help_panel=OWN,
        help="Seconds that running it, and each attempt to export it, may take; default: 1800.",
    ),
]
Description = Annotated[
    str, typer.Option("--description", rich_help_panel=OWN, help="Text for the model's card.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnNetwork:
    """What the command line says of a network of the user's own."""

    factory: str
    weights: Path | None
    upscale: int | None
    name: str | None
    settings: dict[str, Any]
    """Of `kspacesr_rt.export.module_export.export_module`, as they are."""

    def exported(self, output: Path, precision: Precision, **conversion: Any) -> Exported:
        """Export it in fp32, and bring it to another precision if one is asked for."""
        from kspacesr_rt.export.module_export import export_module
        from kspacesr_rt.export.module_precision import at_precision
        from kspacesr_rt.export.network_factories import network_from

        if self.upscale is None:
            raise InputError(
                f"nothing says by what the network {self.factory} upscales",
                hint="add --upscale 2, or what it is",
            )
        settings = {
            **self.settings,
            "upscale": self.upscale,
            "name": self.name or output.stem,
        }
        factory, weights = self.factory, self.weights

        def make() -> Any:
            return network_from(factory, weights)

        return at_precision(
            precision,
            lambda path: export_module(make, path, **settings),
            output,
            force=settings["force"],
            report_file=settings["report_file"],
            conversion=conversion,
        )


def require_unset(source: str, options: dict[str, Any]) -> None:
    """Refuse options of our own generators beside a network's factory.

    Raises
    ------
    InputError
        If one of them is given.
    """
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(
            f"{', '.join(given)}: of a checkpoint of ours, and {source} is a network of your own"
        )


def require_checkpoint(source: str, options: dict[str, Any]) -> None:
    """Refuse what is no checkpoint, and options of other networks beside one.

    Raises
    ------
    InputError
        If there is no such file, it is code, or one of the options is given.
    """
    if not Path(source).is_file():
        raise InputError(
            f"there is no checkpoint '{source}'",
            hint="a network of your own is named as package.module:factory or path/net.py:Net",
        )
    if Path(source).suffix == ".py":
        raise InputError(
            f"{source} is code, and nothing says which network in it",
            hint=f"name its class, or a function that returns it: {source}:Net",
        )
    without = {"padding": "reflect", "input": "image"}
    given = [
        name if name.startswith("--") else f"--{name.replace('_', '-')}"
        for name, value in options.items()
        if value and value != without.get(name)
    ]
    if given:
        raise InputError(
            f"{', '.join(given)}: of a network of your own, and {source} is a checkpoint",
            hint="name the network as package.module:factory or path/net.py:Net",
        )


def matrix_of(text: str | None) -> tuple[int, int] | None:
    """Read ``128x128``.

    Raises
    ------
    InputError
        If it is no matrix.
    """
    if text is None:
        return None
    rows, _, columns = text.lower().replace(",", "x").partition("x")
    if not (rows.strip().isdecimal() and columns.strip().isdecimal()):
        raise InputError(f"'{text}' is no matrix", hint="rows x columns, such as 128x128")
    return int(rows), int(columns)


def range_of(text: str | None) -> tuple[float, float] | None:
    """Read ``0..1``.

    Raises
    ------
    InputError
        If it is no range.
    """
    if text is None:
        return None
    low, _, high = text.partition("..")
    try:
        return float(low), float(high)
    except ValueError as exc:
        raise InputError(f"'{text}' is no range", hint="low..high, such as 0..1") from exc
