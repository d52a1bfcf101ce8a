"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

EXAMPLES = int(os.environ.get("EXAMPLES", "100"))  # of each property; `make mutants` asks for fewer
settings.register_profile("enarx", deadline=None, derandomize=True, max_examples=EXAMPLES)  # no clock, no luck
settings.load_profile("enarx")


@pytest.fixture(scope="session")
def evidence() -> Path:
    """The folder of recorded evidence beside the checkout; a test that needs it is skipped where it is absent."""
    folder = Path(__file__).resolve().parent.parent.parent / "shared" / "evidence"
    if not (folder / "MANIFEST.toml").exists():
        pytest.skip("recorded evidence is not beside this checkout")
    return folder
