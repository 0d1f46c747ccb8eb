"""The image's recipe passes its linter and names only files that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "infra/Dockerfile"
HADOLINT = Path(sys.executable).parent / "hadolint"


def instructions() -> list[str]:
    text = re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_hadolint_reports_nothing() -> None:
    done = subprocess.run([HADOLINT, DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_hadolint_reports_a_bad_file(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text(DOCKERFILE.read_text().replace("USER 1000", "USER root"))
    assert subprocess.run([HADOLINT, bad], capture_output=True).returncode != 0


def copied() -> list[str]:
    copies = [line.split()[1:-1] for line in instructions() if line.startswith("COPY") and "--from" not in line]
    return [source for sources in copies for source in sources]


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_is_there_and_in_the_build_context(source: str) -> None:
    assert (ROOT / source).exists()
    assert f"!{source}" in (ROOT / "infra/Dockerfile.dockerignore").read_text().splitlines()


def test_the_pinned_versions_are_installed_and_root_does_not_run_them() -> None:
    lines = instructions()
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)
    assert lines.index("USER 1000") > max(number for number, line in enumerate(lines) if line.startswith("RUN"))


def test_a_login_shell_finds_the_installed_programs(tmp_path: Path) -> None:
    """``ray up`` uses login shells, for which Debian's ``/etc/profile`` sets PATH before it reads profile.d."""
    (line,) = [line for line in instructions() if "/etc/profile.d" in line]
    subprocess.run(["sh", "-c", line.removeprefix("RUN ").replace("/etc/profile.d", str(tmp_path))], check=True)
    (snippet,) = tmp_path.glob("*.sh")
    (tmp_path / ".bash_profile").write_text(f"PATH=/usr/local/bin:/usr/bin:/bin\n. {snippet}\n")
    shell = ["bash", "--login", "-c", "echo $PATH"]
    done = subprocess.run(shell, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "/opt/noisesmith/bin:/usr/local/bin:/usr/bin:/bin"
