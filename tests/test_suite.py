"""The suite itself."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("alone")
def test_a_group_stays_in_one_process(request):
    """pytest 9.2 drops the groups of pytest-xdist 3.8: every process would export what one does for all."""
    assert request.node.nodeid.endswith("@alone") == ("PYTEST_XDIST_WORKER" in os.environ)
