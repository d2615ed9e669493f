"""Results of a benchmark as they are stored, made up and small, with all that is optional."""

import base64
import io

import numpy as np
from PIL import Image

from kspacesr_rt.bench.run.plans import RowPlan
from kspacesr_rt.bench.run.rows import BenchRow, Latency
from kspacesr_rt.quality.metrics import Quality

EVIL = "<script>alert(1)</script>\" onload='x' & | `b`"


def bench_row(contestant, lowering="", precision="fp32", *, model="x2-fast", ms=10.0, **changes):
    """Return a row that went well, but for `changes`."""
    values = {
        "plan": RowPlan(contestant=contestant, model=model, lowering=lowering, precision=precision),
        "status": "ok",
        "latency": Latency(
            p50_s=ms / 1e3, p90_s=ms / 9e2, p95_s=ms / 8e2, p99_s=ms / 7e2, calls=20, rounds=7
        ),
        "ratio": 20.0 / ms,
        "ratio_spread": 0.01,
        "slices_per_s": 1e3 / ms,
        "psnr_between_db": 130.0,
        "quality": Quality(mae=0.01, psnr_db=36.0, ssim=0.95),
        "tissue": Quality(mae=0.02, psnr_db=33.5, ssim=0.92),
    }
    return BenchRow(**(values | changes))


def failed_row(reason, **changes):
    """Return a row without figures."""
    plan = RowPlan(contestant="openvino", model="x2-fast", lowering="dft")
    return BenchRow(**{"plan": plan, "status": "failed", "reason": reason} | changes)


def png(pixels):
    """Return 8-bit grey as a base64 PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def picture(label="slice 3 of 20", source="sample"):
    """Return a picture whose layers are flat and differ: 40, 90, 120, and errors 200, 60."""
    flat = {"zero_fill": 40, "sr": 90, "hr": 120, "zero_fill_error": 200, "sr_error": 60}
    return {
        "model": "x2-fast",
        "label": label,
        "source": source,
        "white": 0.8,
        "error_white": 0.05,
        **{name: png(np.full((48, 64), grey)) for name, grey in flat.items()},
    }


def result(**changes):
    """Return a stored result; `changes` replace its keys."""
    rows = [
        bench_row("torch-eager", ms=20.0, psnr_between_db=999.0),
        bench_row("ort-cpu", "gemm", ms=10.0, pareto=True),
        bench_row("openvino", "gemm", "bf16", ms=4.0, psnr_between_db=73.0, ratio_spread=0.08),
        failed_row("no kernel for Conv"),
        bench_row("exporter-graph", ms=2.0, status="wrong", reason="12.0 dB from PyTorch fp32"),
        bench_row("zero-fill", ms=0.1, quality=Quality(mae=0.02, psnr_db=34.0, ssim=0.93)),
    ]
    stored = [row.to_dict() for row in rows]
    stored[1]["roofline"] = [
        {
            "group": "conv",
            "flop": 4e9,
            "bytes": 2e7,
            "seconds": 0.008,
            "peak_share": 0.8,
            "bandwidth_share": 0.2,
            "bound": "compute",
        },
        {"group": "fft", "flop": 2e8, "bytes": 4e7, "seconds": 0.002, "bound": "memory"},
        {"group": "other", "flop": 0, "bytes": 0, "seconds": 0.001, "bound": "unknown"},
    ]
    points = [
        {
            "axis": axis,
            "value": value,
            "backend": "ort-cpu",
            "model": "x2-fast",
            "seconds_per_slice": seconds,
            "fft_share": share,
            "reason": "" if seconds else "more feature maps than fit",
        }
        for axis, value, seconds, share in (
            ("matrix", 64, 0.01, 0.05),
            ("matrix", 128, 0.042, 0.1),
            ("matrix", 256, 0.18, 0.2),
            ("matrix", 1024, None, None),
            ("batch", 1, 0.042, None),
            ("batch", 2, 0.041, None),
        )
    ]
    return {
        "schema": 1,
        "environment": {
            "date": "2026-11-23",
            "cpu": "Some CPU",
            "cores": 2,
            "system": "Linux x86_64",
            "python": "3.11.7",
            "packages": {"numpy": "2.4.6"},
            "commit": "abc1234",
        },
        "data": "4 slices of the shipped sample",
        "convention": "slice-range1",
        "command": "kspacesr-rt bench --budget 10",
        "gemm_flop_per_s": {"fp32": 1.6e11},
        "memory_bytes_per_s": 2e10,
        "rows": stored,
        "scaling": [{"points": points, "exponents": {"matrix": 2.08, "batch": -0.03}}],
        "stages": {
            "wall_s": 10.0,
            "bottleneck": "infer",
            "stages": [
                {"name": "decode", "busy_s": 2.0, "workers": 1, "utilisation": 0.2},
                {"name": "infer", "busy_s": 9.5, "workers": 1, "utilisation": 0.95},
            ],
        },
        "pictures": [picture(), picture("slice 9 of 20")],
    } | changes
