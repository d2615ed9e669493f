"""The first run on a GPU that is here: every check of `bench --profile smoke`."""

import pytest

from kspacesr_rt.bench.run.smoke import PASSED, SmokeReport, run_checks
from kspacesr_rt.bench.run.smoke_checks import ORDER, SmokeChecks
from kspacesr_rt.runtime.backends import BACKENDS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("backend", ORDER)
def test_every_check_passes(backend):
    """Known answers, agreement with itself, times within their limits, energy."""
    if (reason := BACKENDS[backend].why_not()) is not None:
        pytest.skip(reason)
    report = run_checks(SmokeChecks(backend).checks(), SmokeReport(backend))
    assert [one.as_text() for one in report.results if one.outcome != PASSED] == []
