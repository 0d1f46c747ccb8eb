"""The rules that keep the layers apart."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import noisesmith.pipeline as pipeline

ROOT = Path(pipeline.__file__).parents[1]


def test_importing_any_part_of_pipeline_imports_no_ray() -> None:
    names = [module.name for module in pkgutil.walk_packages(pipeline.__path__, "pipeline.")]
    assert len(names) > 20
    script = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "assert 'ray' not in sys.modules, 'ray was imported'"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr


def test_actors_compute_nothing() -> None:
    """No arithmetic on tensors: the only torch names in actors are those that carry tensors and set threads."""
    allowed = {"tensor", "Tensor", "stack", "set_num_threads"}
    used = {
        name
        for path in (ROOT / "actors").glob("*.py")
        for name in re.findall(r"\btorch\.(\w+)", path.read_text(encoding="utf-8"))
    }
    assert used <= allowed
