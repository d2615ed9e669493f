"""The shipped sample, as a validator sees it."""

import pytest
from repository import ROOT

from kspacesr_rt.sample import sample_folder

SAMPLE = sample_folder()


ORIGINALS = ROOT.parent / "shared" / "data" / "evaluation" / "ge_pd_dicom"


FILES = sorted(SAMPLE.glob("*.dcm"))


@pytest.fixture(scope="module")
def originals():
    if not ORIGINALS.is_dir():
        pytest.skip("no shared/data/evaluation/ge_pd_dicom beside the repository")
    return ORIGINALS


def test_the_sample_has_no_error_that_the_originals_had_not(originals, dciodvfy):
    """Blanking must not have broken a type 1 attribute."""
    for path in FILES:
        assert dciodvfy(path) - dciodvfy(originals / path.name) == set()
