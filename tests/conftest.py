"""Marks by folder: what runs Ray, engines or whole runs need not say so in each file."""

import pytest

from tests.fixtures.paths import ROOT

INTEGRATION = (ROOT / "tests" / "integration", ROOT / "tests" / "e2e")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in INTEGRATION):
            item.add_marker(pytest.mark.integration)
