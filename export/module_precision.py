"""A network in any precision: exported in fp32, then converted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kspacesr_rt.conversion.convert import convert_model
from kspacesr_rt.conversion.proof import require_free
from kspacesr_rt.export.exported import Exported
from kspacesr_rt.model.spec import Precision


def at_precision(
    precision: Precision,
    export: Callable[[Path], Exported],
    output: Path,
    *,
    force: bool,
    report_file: Path | None,
    conversion: Mapping[str, Any],
) -> Exported:
    """Write a network in fp32, and bring it to another precision if one is asked for.

    Parameters
    ----------
    precision
        What the network is to compute in.
    export
        Writes the file in fp32.
    output
        The ``.onnx`` file to write.
    force, report_file
        As for `kspacesr_rt.conversion.convert.convert_model`, whose errors these are.
    conversion
        What else it is to know.

    Returns
    -------
        Where the model is, what it is, and what the last gate measured.
    """
    if precision == "fp32":
        return export(output)
    require_free(output, force=force, report_file=report_file)
    with tempfile.TemporaryDirectory() as folder:
        wide = export(Path(folder) / output.name)
        made = convert_model(
            wide.path,
            output,
            precision=precision,
            force=force,
            report_file=report_file,
            **conversion,
        )
    return Exported(
        path=output,
        spec=made.spec,
        report=made.report,
        size_bytes=output.stat().st_size,
        remarks=(*wide.remarks, *made.remarks),
    )
