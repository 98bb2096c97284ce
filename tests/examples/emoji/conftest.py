from pathlib import Path

import pytest

from examples.emoji.requirements import INSTALL_FONT, find_font


@pytest.fixture(scope="session")
def font() -> Path:
    """The font; `make test` installs it where it may."""
    found = find_font()
    if found is None:
        pytest.skip(f"no Noto colour emoji font here ({INSTALL_FONT}; `make test` does where it may)")
    return found
