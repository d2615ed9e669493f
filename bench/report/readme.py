"""Write the tables of README and docs from the committed result files.

Run: ``python -m kspacesr_rt.bench.report.readme README.md docs/results.md bench/results``
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from kspacesr_rt.bench.quality.evaluation import CONVENTION, HEADLINE, QualityRow, as_text, means
from kspacesr_rt.bench.quality.limits import LimitCase
from kspacesr_rt.bench.quality.limits import as_text as limits_text
from kspacesr_rt.bench.quality.proofs.measure import table as proof_table
from kspacesr_rt.bench.quality.stamp_results import limits_of
from kspacesr_rt.bench.quality.trust import as_text as trust_text
from kspacesr_rt.bench.report.tables import markdown
from kspacesr_rt.bench.run.plans import PEERS
from kspacesr_rt.bench.run.rows import BenchRow
from kspacesr_rt.model.trust_calibration import TrustCalibration
from kspacesr_rt.quality.metrics import Quality
from kspacesr_rt.system.files import replace_file

QUALITY_FILE, LATENCY_FILE, SEED_FILE = "quality.json", "latency.json", "seed-table.json"
RUNTIMES_FILE, PROOFS_FILE, TRUST_FILE = "runtimes.json", "proofs.json", "trust.json"
GAUSSIAN = f"{CONVENTION}-gaussian"
"""The convention whose SSIM gain stands beside."""
RUNTIME_COLUMNS = (
    *("model", "runtime", "FFT", "precision", "times PyTorch", "PSNR to PyTorch", "PSNR dB"),
    *("SSIM", "FFT share", "of GEMM peak", "note"),
)
"""Of README's table; the result file has more."""


def _origin(result: dict[str, Any], file: str) -> str:
    """Say where, when and with what a result was measured; rows of another run say so by model."""
    environment = result["environment"]
    packages = environment["packages"]
    later = "".join(
        f"; {name}: {own['date']}, commit {own['commit'] or 'not recorded'}"
        for name, own in result.get("environments", {}).items()
    )
    return (
        f"{environment['date']}, {environment['cores']} cores ({environment['cpu']}), commit "
        f"{environment['commit'] or 'not recorded'}, onnxruntime {packages['onnxruntime']}, "
        f"`bench/results/{file}`{later}"
    )


def quality_table(result: dict[str, Any]) -> str:
    """Return the means of `kspacesr-rt evaluate --json` as Markdown."""
    averages = means(_rows(result))
    base = {
        (row.data, row.upscale, row.convention): row.quality
        for row in averages
        if row.method == "zero-fill"
    }
    beside = {
        (row.data, row.upscale, row.method, row.convention): row.quality
        for row in averages
        if row.convention != HEADLINE
    }
    lines = [
        "Image quality on series that no model was trained on: `validation` is T2, FLAIR and T1 "
        "of one more patient of the training scanner, `evaluation` other scanners and contrasts "
        f"(proton density, T1 with contrast agent). Inside tissue (convention `{HEADLINE}`), with "
        f"the gains of the whole slice (`{CONVENTION}`) beside: HR cropped to what its scanner "
        "acquired and scaled by its series' maximum, data range 1, mean over slices with tissue, "
        "clipped at 0; LR is the magnitude of the inverse FFT of the k-space centre. SSIM in "
        "scikit-image's uniform 7 x 7 window; its gain over the whole slice also in the Gaussian "
        "11 x 11 window of Wang et al. 2004.",
        "",
        "| data | slices | upscale | method | MAE | PSNR dB | SSIM | gain dB | gain SSIM "
        "| slice dB | slice SSIM | Gaussian |",
        "| --- | --: | --: | --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    shown = [row for row in averages if row.convention == HEADLINE]
    for row in sorted(shown, key=lambda row: (row.data != "validation", row.upscale)):
        own, reference = row.quality, base[row.data, row.upscale, row.convention]
        whole, gaussian = (
            (
                beside[row.data, row.upscale, row.method, name],
                base[row.data, row.upscale, name],
            )
            for name in (CONVENTION, GAUSSIAN)
        )
        lines.append(
            f"| {row.data} | {row.n_slices} | x{row.upscale} | {row.method} | {own.mae:.5f} | "
            f"{own.psnr_db:.2f} | {own.ssim:.4f} | {own.psnr_db - reference.psnr_db:+.2f} | "
            f"{own.ssim - reference.ssim:+.4f} | {whole[0].psnr_db - whole[1].psnr_db:+.2f} | "
            f"{whole[0].ssim - whole[1].ssim:+.4f} | {gaussian[0].ssim - gaussian[1].ssim:+.4f} |"
        )
    origin = _origin(result, QUALITY_FILE)
    return "\n".join([*lines, "", f"(`kspacesr-rt evaluate DATA --json`; {origin})"])


def gains_table(result: dict[str, Any]) -> str:
    """Return what the shipped models gain over zero-fill on data they never saw, as Markdown."""
    rows = [row for row in means(_rows(result)) if row.convention == HEADLINE]
    rows = [row for row in rows if row.data == "evaluation"]
    base = {row.upscale: row.quality for row in rows if row.method == "zero-fill"}
    lines = [
        "| model | upscale | PSNR dB | gain dB | gain SSIM |",
        "| --- | --: | --: | --: | --: |",
    ]
    for row in sorted(rows, key=lambda row: (row.upscale, -row.quality.psnr_db)):
        if row.method == "zero-fill":
            continue
        own, reference = row.quality, base[row.upscale]
        lines.append(
            f"| {row.method} | x{row.upscale} | {own.psnr_db:.2f} | "
            f"{own.psnr_db - reference.psnr_db:+.2f} | {own.ssim - reference.ssim:+.4f} |"
        )
    return "\n".join(lines)


def seed_table(result: dict[str, Any]) -> str:
    """Return `kspacesr-rt seed-table --json` as Markdown: means, every convention, the verdict."""
    rows = _rows(result)
    budget = result["budget"]
    hours = budget.get("core_hours", 0.0)
    spent = f"{hours:g} hours of one core" if hours else f"{budget['steps']} steps"
    lines = [
        f"SR_kspace's methods and ours, each trained from scratch on the same slices for {spent}, "
        f"{budget['batch']} slices a step, {budget['width']} channels, lr {budget['lr']}, LR by "
        f"`{budget['degradation']}`: equal and small budgets, so the rows compare with each other "
        "and not with the shipped models.",
        "",
        as_text(rows, series=False),
        "",
        *(f"- {sentence}" for sentence in result["verdict"]),
    ]
    if trained := result.get("trained"):
        done = ", ".join(
            f"{one['method']} x{one['upscale']} {one['steps']} ({one['judged']})" for one in trained
        )
        lines += ["", f"Steps done, and the step whose weights are judged: {done}."]
    origin = _origin(result, SEED_FILE)
    return "\n".join(
        [*lines, "", f"(`kspacesr-rt seed-table DATA --judge-on OTHER --json`; {origin})"]
    )


def proofs_table(result: dict[str, Any]) -> str:
    """Return `kspacesr-rt evaluate --proofs --json` as Markdown, one table a model."""
    tables = [
        line
        for name, one in sorted(result["proofs"].items())
        for line in (f"**{name}**", "", *proof_table(one["figures"]), "")
    ]
    origin = _origin(result, PROOFS_FILE)
    command = "kspacesr-rt evaluate VALIDATION EVALUATION --proofs --acr PHANTOM --cards --json"
    return "\n".join([*tables, f"(`{command}`; {origin})"])


def limits_table(result: dict[str, Any]) -> str:
    """Return where models stop helping, from the same result."""
    found = {
        name: (limits_of(one["limits"]), [LimitCase(**case) for case in one["cases"]])
        for name, one in sorted(result["limits"].items())
    }
    return limits_text(found)


def trust_table(result: dict[str, Any]) -> str:
    """Return `kspacesr-rt trust --json` as Markdown."""
    stated = {name: TrustCalibration(**one) for name, one in sorted(result["trust"].items())}
    origin = _origin(result, TRUST_FILE)
    command = "kspacesr-rt trust JUDGED --calibrate-on DATA --json"
    return "\n".join([trust_text(stated), "", f"(`{command}`; {origin})"])


def runtimes_table(result: dict[str, Any]) -> str:
    """Return `kspacesr-rt bench` as Markdown: runtime x lowering x precision."""
    rows = [BenchRow.from_dict(row) for row in result["rows"]]
    peaks = ", ".join(
        f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in result["gemm_flop_per_s"].items()
    )
    threads = sorted({row.plan.threads for row in rows})
    shown = {row.plan.contestant for row in rows}
    lines = [
        f"One slice a call, {threads[0]} thread, on {result['data']}: speed relative to PyTorch "
        "eager fp32 in the same run (above 1 is faster), agreement with it, and quality against "
        "HR. A row that failed or is wrong stays, with its reason. Matrix-product peak of the "
        f"same run: {peaks}; that is what one product of large matrices reached there, no limit, "
        "so a share may be a little above 100 %.",
        "",
        markdown(rows, RUNTIME_COLUMNS),
        "",
        *(f"- `{name}`: {text}" for name, text in PEERS.items() if name in shown),
    ]
    command = result.get("command", "kspacesr-rt bench")
    origin = _origin(result, RUNTIMES_FILE)
    return "\n".join([*lines, "", f"(`{command}`; {origin})"])


def _rows(result: dict[str, Any]) -> list[QualityRow]:
    return [QualityRow(**{**row, "quality": Quality(**row["quality"])}) for row in result["rows"]]


def latency_table(result: dict[str, Any]) -> str:
    """Return a pytest-benchmark file as ratios to PyTorch eager in the same run."""
    medians: dict[tuple[str, str, str], float] = {}
    for one in result["benchmarks"]:
        suite = one["fullname"].split("::")[0].rsplit("/", 1)[-1]
        extra = one["extra_info"]
        contestant = extra.get("backend") or extra["contestant"]
        medians[suite, one["group"], contestant] = one["stats"]["median"]
    wording = {
        ("test_latency.py", "ort-cpu"): "`ort-cpu`, one slice (128 or 64 to 256), `run` alone",
        ("test_pipeline.py", "infer"): "`infer`, the sample's 20 slices, DICOM in to DICOM out",
    }
    lines = [
        "Time relative to PyTorch eager on the same slices, fp32, one thread, medians of one run; "
        "below 1 is faster.",
        "",
        "| what | x2-fast | x4-fast |",
        "| --- | --: | --: |",
    ]
    for (suite, contestant), text in wording.items():
        ratios = [
            medians[suite, group, contestant] / medians[suite, group, "torch-eager"]
            for group in ("x2-fast", "x4-fast")
        ]
        lines.append(f"| {text} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    origin = _origin(result, LATENCY_FILE)
    return "\n".join([*lines, "", f"(`pytest bench/suites`; {origin})"])


def with_tables(readme: str, results: Path) -> str:
    """Return the README's text with its tables as the result files have them."""
    makers = {
        "gains": (QUALITY_FILE, gains_table),
        "quality": (QUALITY_FILE, quality_table),
        "latency": (LATENCY_FILE, latency_table),
        "seed": (SEED_FILE, seed_table),
        "runtimes": (RUNTIMES_FILE, runtimes_table),
        "proofs": (PROOFS_FILE, proofs_table),
        "limits": (PROOFS_FILE, limits_table),
        "trust": (TRUST_FILE, trust_table),
    }
    tables = {
        name: make(json.loads((results / file).read_text()))
        for name, (file, make) in makers.items()
        if (results / file).exists()
    }
    for name, table in tables.items():
        opening = f"<!-- table: {name} -->\n"
        pattern = rf"{opening}.*?(?=<!-- end -->)"
        readme = re.sub(
            pattern, f"{opening}{table}\n".replace("\\", r"\\"), readme, flags=re.DOTALL
        )
    return readme


def main(*pages: Path, results: Path) -> None:
    """Rewrite pages in place."""
    for page in pages:
        replace_file(page, with_tables(page.read_text(encoding="utf-8"), results).encode())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:-1]), results=Path(sys.argv[-1]))
