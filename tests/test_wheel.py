"""What is installed: one import name, complete, without the workshop in which the built-in models are made."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IGNORED = shutil.ignore_patterns("__pycache__", ".*")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from; building in the repository would leave files there."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("noisesmith", "pipeline", "actors"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=IGNORED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def build(project: Path, kind: str, target: Path) -> Path:
    """A ``wheel`` or an ``sdist`` of a project, built by the installed setuptools."""
    script = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, target], cwd=project, check=True, capture_output=True)
    (built,) = target.iterdir()
    return built


def installed_files(wheel: Path) -> set[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return {name for name in names if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_every_file_of_the_package_and_no_workshop(wheel: Path) -> None:
    expected = {"noisesmith/__init__.py", "noisesmith/py.typed"}
    for folder in ("pipeline", "actors"):
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and "__pycache__" not in name and "embedded/training/" not in name:
                expected.add(f"noisesmith/{name}")
    assert installed_files(wheel) == expected


def test_the_wheel_installs_one_import_name_and_one_command(wheel: Path) -> None:
    names = installed_files(wheel)
    assert {name.split("/")[0] for name in names} == {"noisesmith"}
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert archive.read(entry_points).decode().split() == [
            *("[console_scripts]", "noisesmith", "=", "noisesmith.pipeline.cli:main")
        ]


def test_the_source_distribution_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build(checkout, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (project,) = tmp_path.glob("noisesmith-*")
    again = build(project, "wheel", tmp_path / "wheel")
    assert installed_files(again) == installed_files(wheel)
