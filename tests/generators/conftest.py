"""One tiny model a family, built once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.tiny_generators import FAMILIES
from tests.tiny_pipelines import EVERY


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders of ``sd1``, ``sd2``, ``sdxl`` and ``sd3``."""
    folder = tmp_path_factory.mktemp("families")
    return {name: build(folder / name) for name, build in FAMILIES.items()}


class _Folders(dict[str, Path]):
    """Builds a pipeline at its first use."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __missing__(self, name: str) -> Path:
        self[name] = EVERY[name].build(self._folder / name)
        return self[name]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders of ``tiny_pipelines.EVERY``."""
    return _Folders(tmp_path_factory.mktemp("pipelines"))
