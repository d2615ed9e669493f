"""Unit tests stay in this process: they are what one runs before every push."""

import pytest
from one_process import within_one_process


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with within_one_process():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with within_one_process():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    with within_one_process():
        return (yield)
