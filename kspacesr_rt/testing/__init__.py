"""The contract of a backend as checks, for whoever writes one; pytest is not needed.

With pytest, a test for each check::

    import pytest
    from kspacesr_rt.testing import CONTRACT, Subject

    @pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
    def test_contract(check):
        check(Subject("my-runtime"))

Without it, `check_backend`. A check that finds something raises `AssertionError`; one that does not
apply to a backend raises `unittest.SkipTest`, which pytest shows as a skip.
"""

from kspacesr_rt.testing.backend_contract import CONTRACT, check_backend
from kspacesr_rt.testing.subject import Subject

__all__ = ["CONTRACT", "Subject", "check_backend"]
