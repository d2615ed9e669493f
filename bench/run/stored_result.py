"""Read the result of a benchmark back: every field that a report shows has the type it expects.

What is optional may be missing (`?`); what this version does not know is ignored, so that a result
of a later one with the same schema still reads.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kspacesr_rt.bench.run.plans import RowPlan
from kspacesr_rt.bench.run.rows import SCHEMA, BenchRow, Latency
from kspacesr_rt.errors import InputError, library_message
from kspacesr_rt.quality.metrics import Quality

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NUMBER = (int, float)
MAYBE = (int, float, type(None))
PNG = "PNG"
"""A picture: base64 of a PNG file."""
PNG_START = b"\x89PNG\r\n\x1a\n"
LARGEST, SMALLEST = 1e18, 1e-18
"""Nothing here is larger (operations a second come nearest), and what is smaller is rounding: so no
sum, product or quotient of figures leaves the range of a float."""
PLAN = {
    **dict.fromkeys(("contestant", "model", "lowering", "precision"), str),
    **dict.fromkeys(("batch", "threads"), int),
}
ROW = {
    "plan": PLAN,
    **dict.fromkeys(("status", "reason", "ratio_to?", "energy_source?"), str),
    "latency": [
        None,
        {**dict.fromkeys(("p50_s", "p90_s", "p95_s", "p99_s", "calls", "rounds"), NUMBER)},
    ],
    "quality": [None, dict.fromkeys(("mae", "psnr_db", "ssim"), NUMBER)],
    "tissue?": [None, dict.fromkeys(("mae", "psnr_db", "ssim"), NUMBER)],
    "pareto": bool,
    **dict.fromkeys(
        (
            *("ratio", "ratio_spread", "slices_per_s", "load_s", "first_result_s"),
            *("peak_rss_bytes", "model_bytes", "flop", "flop_per_s", "peak_share", "fft_share"),
            *("joules_per_slice", "psnr_between_db", "device_bytes?", "engine_bytes?", "upscale?"),
            *("copies_s?", "device_s?"),
        ),
        MAYBE,
    ),
    "roofline?": [
        None,
        (
            {
                "group": str,
                "bound": str,
                **dict.fromkeys(("flop", "bytes", "seconds"), NUMBER),
                **dict.fromkeys(("peak_share?", "bandwidth_share?"), MAYBE),
            },
        ),
    ],
}
RESULT = {
    "environment": {
        **dict.fromkeys(("date", "cpu", "system", "python", "commit"), str),
        "cores": MAYBE,
        "packages": {"*": str},
        "start?": [None, {"load?": MAYBE}],
        "why_no_stages?": [None, str],
    },
    "data": str,
    "convention": str,
    "command?": str,
    "memory_bytes_per_s?": MAYBE,
    "gemm_flop_per_s": {"*": NUMBER},
    "rows": (ROW,),
    "scaling?": (
        {
            "points": (
                {
                    **dict.fromkeys(("axis", "backend", "model", "reason"), str),
                    "value": int,
                    "seconds_per_slice": MAYBE,
                    "fft_share": MAYBE,
                    "ratio?": MAYBE,
                },
            ),
            "exponents": {"*": NUMBER},
        },
    ),
    "stages?": [
        None,
        {
            "wall_s": NUMBER,
            "bottleneck": str,
            "stages": (
                {
                    "name": str,
                    **dict.fromkeys(("busy_s", "workers", "utilisation"), NUMBER),
                },
            ),
        },
    ],
    "pictures?": (
        {
            **dict.fromkeys(("model", "label", "source"), str),
            **dict.fromkeys(("zero_fill", "sr", "hr", "zero_fill_error", "sr_error"), PNG),
            **dict.fromkeys(("white", "error_white"), NUMBER),
        },
    ),
}
"""A dict holds keys (``*`` any, a final ``?`` optional), a tuple is a list of its one element, a
list names alternatives, and anything else is a type."""


def read_result(path: Path) -> dict[str, Any]:
    """Read what ``kspacesr-rt bench -o`` wrote.

    Raises
    ------
    InputError
        If the file cannot be read, is something else, has another schema, or a field of it is
        missing or of the wrong type.
    """
    hint = "give it what `kspacesr-rt bench -o RESULTS.json` wrote"
    try:
        result = json.loads(path.read_text(encoding="utf-8"), **_NUMBERS)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise InputError(
            f"{path} is no JSON result of a benchmark: {library_message(exc)}", hint=hint
        ) from exc
    if not isinstance(result, dict) or "rows" not in result or "gemm_flop_per_s" not in result:
        raise InputError(f"{path} is no result of `kspacesr-rt bench`", hint=hint)
    if result.get("schema") != SCHEMA:
        raise InputError(
            f"{path} has schema {result.get('schema')!r}; this version reads {SCHEMA}",
            hint="render it with the version that wrote it, or measure again",
        )
    problem = _problem(result, RESULT, "")
    if problem:
        raise InputError(f"{path}: {problem}", hint=hint)
    return result


def rows_of(result: dict[str, Any]) -> tuple[BenchRow, ...]:
    """Return the rows of a result that `read_result` or `BenchResult.to_dict` gave.

    Layer groups (``roofline``) are left out: they are tables of their own.
    """
    return tuple(
        BenchRow.from_dict({**_known(row, BenchRow), "roofline": None}) for row in result["rows"]
    )


NESTED = {"plan": RowPlan, "latency": Latency, "quality": Quality, "tissue": Quality}


def _known(values: dict[str, Any], kind: type[DataclassInstance]) -> dict[str, Any]:
    """Leave out what this version has no field for."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {
        name: _known(value, NESTED[name]) if name in NESTED and value else value
        for name, value in values.items()
        if name in names
    }


def _float(text: str) -> float:
    value = float(text)
    if not abs(value) <= LARGEST:
        raise ValueError(f"it holds {text}, which is no figure")
    return value if abs(value) >= SMALLEST else 0.0


def _int(text: str) -> int:
    value = int(text)
    if abs(value) > LARGEST:
        raise ValueError("it holds a whole number beyond every size")
    return value


_NUMBERS: dict[str, Any] = {"parse_constant": _float, "parse_float": _float, "parse_int": _int}


def _problem(value: Any, shape: Any, where: str) -> str:
    """Say what is wrong with a value, or nothing."""
    if isinstance(shape, dict):
        return _problem_of_object(value, shape, where)
    if isinstance(shape, list):
        if value is None:
            return ""
        return _problem(value, shape[-1], where)
    if isinstance(shape, tuple) and len(shape) == 1:
        if not isinstance(value, list):
            return f"{where} is not a list"
        found = (_problem(one, shape[0], f"{where}[{i}]") for i, one in enumerate(value))
        return next(filter(None, found), "")
    if shape == PNG:
        return "" if _is_png(value) else f"{where} is not a PNG in base64"
    wanted = shape if isinstance(shape, tuple) else (shape,)
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        return f"{where} is {type(value).__name__}, not {wanted[0].__name__}"
    return ""


def _problem_of_object(value: Any, shape: dict[str, Any], where: str) -> str:
    if not isinstance(value, dict):
        return f"{where} is not an object"
    for name, expected in shape.items():
        if name == "*":
            found = (_problem(one, expected, f"{where}.{key}") for key, one in value.items())
            return next(filter(None, found), "")
        key = name.removesuffix("?")
        place = f"{where}.{key}".lstrip(".")
        if key not in value:
            if key == name:
                return f"{place} is missing"
        elif problem := _problem(value[key], expected, place):
            return problem
    return ""


def _is_png(value: Any) -> bool:
    try:
        return isinstance(value, str) and base64.b64decode(value, validate=True)[:8] == PNG_START
    except (binascii.Error, ValueError):
        return False
