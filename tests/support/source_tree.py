"""Every module of the package, where it lies, and the room it belongs to."""

from repository import ROOT

FOLDERS = {
    "kspacesr_rt": ROOT / "kspacesr_rt",
    "kspacesr_rt.train": ROOT / "train",
    "kspacesr_rt.export": ROOT / "export",
    "kspacesr_rt.bench": ROOT / "bench",
}


HEAVY = (
    *("torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda"),
    *("nibabel", "nrrd", "h5py", "pytest", "pynetdicom", "ray", "watchdog"),
)


def modules():
    for prefix, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if "suites" in parts:
                continue  # benchmarks, run by pytest and not installed
            if prefix == "kspacesr_rt" and parts[0] in ("train", "export", "bench"):
                continue  # links, so that a checkout that is not installed holds what Python sees
            yield ".".join((prefix, *(part for part in parts if part != "__init__"))), path


def room_of(module):
    """Return the room of a module, None for the package itself."""
    parts = module.split(".")[1:]
    if not parts or parts == ["bench"]:
        return None
    return ".".join(parts[:2]) if parts[0] == "bench" else parts[0]


def is_runtime(module):
    return room_of(module) not in (None, "train", "export", "layers", "cli", "__main__") and (
        not module.startswith("kspacesr_rt.bench")
    )


MODULES = dict(modules())
