"""Packages with a plug-in, as pip would leave them: a module and its metadata, in one folder."""

import textwrap

ROW = """
    from kspacesr_rt.runtime.backends import BackendInfo
    BACKEND = BackendInfo({name!r}, {module!r}, "a runtime of its own")
"""
ON_ORT = """
    from kspacesr_rt.runtime import ort_cpu

    class Own:
        def __init__(self, model, options):
            self.inner = ort_cpu.open_backend("ort-cpu", model, options)

        def run(self, batch):
            return self.inner.run(batch)

        def __enter__(self):
            self.inner.__enter__()
            return self

        def __exit__(self, *exc):
            self.inner.__exit__(*exc)

    def open_backend(name, model, options):
        return Own(model, options)
"""
"""A backend that is right: ONNX Runtime under another name."""


def plant(
    site,
    name="own",
    *,
    row=ROW,
    backend=ON_ORT,
    module=None,
    package=None,
    group="kspacesr_rt.backends",
    entry_points=None,
    requires=(),
):
    """Lay a package into a folder; return the names of its two modules.

    A module `MODULE` with the row, and `MODULE_backend` with what the row names.
    """
    module = module or f"planted_{name}".replace("-", "_")
    package = package or module.replace("_", "-")
    inside = f"{module}_backend"
    row = textwrap.dedent(row).replace("{name!r}", repr(name)).replace("{module!r}", repr(inside))
    (site / f"{module}.py").write_text(row)
    (site / f"{inside}.py").write_text(textwrap.dedent(backend))
    metadata = site / f"{package.replace('-', '_')}-1.5.dist-info"
    metadata.mkdir()
    needed = "".join(f"Requires-Dist: {one}\n" for one in requires)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n{needed}"
    )
    if entry_points is None:
        entry_points = f"[{group}]\n{name} = {module}:BACKEND\n"
    (metadata / "entry_points.txt").write_text(entry_points)
    return module, inside
