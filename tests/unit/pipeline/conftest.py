"""What tests of several parts of a run begin with."""

import pytest

from kspacesr_rt.sample import sample_folder


@pytest.fixture
def study(tmp_path):
    """Copy three slices of the sample into a folder of their own."""
    folder = tmp_path / "study"
    folder.mkdir()
    for path in sorted(sample_folder().glob("*.dcm"))[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
