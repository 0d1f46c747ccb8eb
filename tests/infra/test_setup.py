"""Setting up from a checkout: pinned versions, and a clear sentence when Python is too old."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
PINS = {canonicalize_name(pin.name): pin for pin in map(Requirement, LINES)}


@pytest.mark.parametrize("dependency", DIRECT)
def test_every_direct_dependency_has_a_pin_that_satisfies_it(dependency: str) -> None:
    wanted = Requirement(dependency)
    (pin,) = PINS[canonicalize_name(wanted.name)].specifier
    assert pin.operator == "=="
    assert wanted.specifier.contains(pin.version)


def test_no_pin_names_one_build_of_a_version() -> None:
    assert not [line for line in LINES if "+" in line]


def test_nothing_is_pinned_twice() -> None:
    assert len(PINS) == len(LINES)


def test_a_commit_runs_the_checks_that_a_pull_request_must_pass() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"  # its tools are the environment's own, at the pinned versions
    assert [hook["entry"] for hook in repository["hooks"]] == ["make check"]
    assert "\nmake check\n" in (ROOT / ".ci/run").read_text()


def test_an_old_python_gets_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")  # what a Python without the version asked for answers
    old.chmod(0o755)
    done = subprocess.run(["make", "demo", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "noisesmith needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()
