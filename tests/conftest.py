"""Shared fixtures. The real CIFAR-10 is found by $SPEEDRUN_DATA alone; without it its tests skip."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds the real CIFAR-10."""
    folder = os.environ.get("SPEEDRUN_DATA")
    if not folder:
        pytest.skip("SPEEDRUN_DATA is not set")
    return Path(folder)
