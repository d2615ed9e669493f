"""Model cards: what a model is, what it was trained on, what it measures, what it is not for.

The measured quality goes into the model file's specification as well, so that `inspect` shows it;
weights, graph and digest stay as they are.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx

from kspacesr_rt.bench.quality import CONVENTION, QualityRow, means
from kspacesr_rt.files import replace_file
from kspacesr_rt.model_file import ModelFile, load_model
from kspacesr_rt.spec import METADATA_KEY

LIMITS = """\
- Research use only. Detail outside the measured k-space is predicted from how other heads look;
  small lesions can be missing from it, sharpened, or made up. Not a medical device.
- Trained on adult brain MR (T2, FLAIR, T1) alone. Other organs, contrasts, field strengths and
  pathologies were not seen; the evaluation series show how far two such steps go.
- Made for LR images whose k-space is full up to its edge. Scanner-interpolated or strongly
  filtered series have an empty rim, and the model then sharpens what the filter left.
- Works slice by slice, in plane only; slice thickness stays.
- From a magnitude image, so the measured k-space is image-derived, without acquired phase."""


def stamp_quality(path: Path, rows: list[QualityRow]) -> ModelFile:
    """Store measured quality in a model file and return the file as it is now.

    Parameters
    ----------
    path
        A model file; replaced as a whole.
    rows
        Rows of `kspacesr_rt.bench.quality.judge`; those of other models and upscales are ignored.
    """
    model = load_model(path)
    quality: dict[str, dict[str, float]] = {}
    for row in means(rows):
        if row.upscale != model.spec.upscale:
            continue
        values = quality.setdefault(row.data, {})
        if row.method == model.spec.name:
            values |= {"n_slices": row.n_slices, **dataclasses.asdict(row.quality)}
        elif row.method == "zero-fill":
            values |= {f"zero_fill_{k}": v for k, v in dataclasses.asdict(row.quality).items()}
    spec = dataclasses.replace(model.spec, quality=quality)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for item in proto.metadata_props:
        if item.key == METADATA_KEY:
            item.value = spec.to_json()
    replace_file(path, proto.SerializeToString(deterministic=True))
    return load_model(path)


def card(model: ModelFile) -> str:
    """Return the model card in Markdown, every figure from the file itself."""
    spec, origin = model.spec, model.spec.provenance
    worst = min(case["psnr_between_db"] for case in spec.parity["cases"])
    lines = [
        f"# {spec.name}",
        "",
        f"Upscales MR magnitude slices by {spec.upscale} per axis. {spec.intended_use}",
        "",
        "| | |",
        "| --- | --- |",
        f"| architecture | {spec.architecture}, {spec.width} channels, {spec.blocks} blocks, "
        f"data consistency '{spec.data_consistency}' |",
        f"| training data | {origin.training} |",
        f"| licence | {origin.licence} |",
        f"| attribution | {origin.attribution} |",
        f"| weights | sha256 `{origin.weights_sha256}` |",
        f"| checkpoint | sha256 `{origin.checkpoint_sha256}` |",
        f"| parity with PyTorch fp32 | at least {worst:.1f} dB over "
        f"{len(spec.parity['cases'])} cases on {spec.parity['backend']} |",
        f"| recipe | `train/recipes/{spec.name}.toml` |",
        "",
        "## Measured quality",
        "",
        f"Convention `{CONVENTION}`: HR scaled by its series' maximum, data range 1, mean over "
        "slices with tissue, results clipped at 0. LR is the magnitude of the inverse FFT of the "
        "k-space centre. No series here was trained on; `validation` steered the choice of "
        "settings, `evaluation` did not.",
        "",
        "| data | slices | method | MAE | PSNR dB | SSIM |",
        "| --- | --: | --- | --: | --: | --: |",
    ]
    for data, values in sorted(spec.quality.items()):
        for prefix, method in (("zero_fill_", "zero-fill"), ("", spec.name)):
            lines.append(
                f"| {data} | {values['n_slices']:.0f} | {method} | {values[prefix + 'mae']:.5f} "
                f"| {values[prefix + 'psnr_db']:.2f} | {values[prefix + 'ssim']:.4f} |"
            )
    return "\n".join([*lines, "", "## Limits", "", LIMITS, ""])


def write_card(path: Path, rows: list[QualityRow]) -> Path:
    """Stamp a model file with its quality and write its card beside it; return the card's path."""
    model = stamp_quality(path, rows)
    target = path.with_suffix(".md")
    replace_file(target, card(model).encode())
    return target
