"""A user's network in any precision: exported in fp32, then converted."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kspacesr_rt.conversion.convert import convert_model
from kspacesr_rt.conversion.proof import require_free
from kspacesr_rt.export.exported import Exported
from kspacesr_rt.export.module_export import Maker, export_module
from kspacesr_rt.model.spec import Precision


def export_module_at(
    precision: Precision,
    module: Maker | Any,
    output: Path,
    *,
    conversion: Mapping[str, Any],
    **settings: Any,
) -> Exported:
    """Export a network in fp32, and bring it to another precision if one is asked for.

    Parameters
    ----------
    precision
        What the network is to compute in.
    module, output, settings
        As for `kspacesr_rt.export.module_export.export_module`, whose errors these are.
    conversion
        What else `kspacesr_rt.conversion.convert.convert_model` is to know.

    Returns
    -------
        Where the model is, what it is, and what both gates measured.
    """
    if precision == "fp32":
        return export_module(module, output, **settings)
    force, report_file = settings["force"], settings["report_file"]
    require_free(output, force=force, report_file=report_file)
    with tempfile.TemporaryDirectory() as folder:
        wide = export_module(module, Path(folder) / output.name, **settings)
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
