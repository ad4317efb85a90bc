import pytest


@pytest.fixture(scope="module", autouse=True)
def undrawn(undrawn_reports: None) -> None:
    """What is reported here is not looked at."""
