"""One tiny model a family, built once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.tiny_generators import FAMILIES


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders of ``sd1``, ``sd2``, ``sdxl`` and ``sd3``."""
    folder = tmp_path_factory.mktemp("families")
    return {name: build(folder / name) for name, build in FAMILIES.items()}
