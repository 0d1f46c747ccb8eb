"""A user's own files never stand in for this package's modules, and its modules never for the user's."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from noisesmith.pipeline.sinks import read_rows
from tests.density import ROOT
from tests.runs import PATIENCE

pytestmark = pytest.mark.slow

SCRIPTS = Path(sys.executable).parent
# Whichever of these is imported leaves a trace.
MARK = """
from pathlib import Path

with Path({trace!r}).open("a") as trace:
    trace.write(__name__ + " was imported\\n")
"""
MODULES = ["pipeline.py", "actors.py", "noisesmith.py", "pipeline/__init__.py", "noisesmith/__init__.py"]
# Imported by every Python process; no worker writes an image while a file exists, so that there is something to retry.
FAULTS = """
import os, sys
from pathlib import Path

if any("default_worker.py" in word for word in sys.orig_argv):
    import PIL.Image

    save = PIL.Image.Image.save

    def broken(self, *arguments, **options):
        if Path(os.environ["BROKEN"]).exists():
            raise ValueError("broken on purpose")
        return save(self, *arguments, **options)

    PIL.Image.Image.save = broken
"""
TOKEN = secrets.token_hex(32)
PROMPTS = ["a cat and a dog", "a red car"]


def test_a_user_s_own_pipeline_and_ours_live_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text("NAME = 'mine'\n")
    (tmp_path / "actors.py").write_text("NAME = 'mine'\n")
    script = (
        "import pipeline, actors, noisesmith.pipeline.config, noisesmith.actors.placement\n"
        "assert pipeline.NAME == actors.NAME == 'mine'\n"
        "assert noisesmith.pipeline.config.RunConfig.__module__.startswith('noisesmith.pipeline.')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


HEAVY = ["torch", "diffusers", "transformers"]  # each takes a second of CPU or more
# Refuses a module as if it were not installed.
REFUSING = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name in {refused!r}:
            raise ModuleNotFoundError(name + " was imported")

sys.meta_path.insert(0, Refusing())
"""


@pytest.mark.parametrize("config", ["quickstart", "embedded-complex"])
def test_checking_a_run_of_the_built_in_models_imports_no_model_library(config: str, tmp_path: Path) -> None:
    """So a mistake is found, and Ray starts, within a second of CPU."""
    script = REFUSING.format(refused=HEAVY) + (
        "from noisesmith.pipeline.cli import main\n"
        f"sys.argv = ['noisesmith', 'plan', {str(ROOT / 'configs' / f'{config}.yaml')!r}, '--quick']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert "embedded (StableDiffusionPipeline)" in done.stdout, done.stderr


def test_a_driver_imports_no_model_library() -> None:
    """Nor when it hands the workers' classes to Ray, which pickles their methods with the names that they use."""
    script = REFUSING.format(refused=HEAVY) + (
        "import noisesmith.actors.session, noisesmith.pipeline.preflight\n"
        "from noisesmith.actors.generator import GeneratorActor\n"
        "from noisesmith.actors.scorer import ScorerActor\n"
        "from ray import cloudpickle\n"
        "for actor in (GeneratorActor, ScorerActor):\n"
        "    cloudpickle.loads(cloudpickle.dumps(actor.__ray_metadata__.modified_class))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def environment(folder: Path) -> dict[str, str]:
    """What the commands and the cluster share: the faults, and a token that keeps strangers out of the cluster."""
    faults = {"PYTHONPATH": str(folder / "faults"), "BROKEN": str(folder / "broken")}
    return os.environ | faults | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "COLUMNS": "200"}


def noisesmith(folder: Path, *arguments: str, code: int = 0) -> str:
    """The console script, started in ``folder``; returns what it printed."""
    done = subprocess.run(
        [SCRIPTS / "noisesmith", *arguments],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def write_folder(folder: Path, sd: Path, llava: Path) -> None:
    """A user's own modules, models and corpus, and a config that names them by relative paths."""
    for name in MODULES:
        module = folder / name
        module.parent.mkdir(exist_ok=True)
        module.write_text(MARK.format(trace=str(folder / "trace")))
    shutil.copytree(sd, folder / "models" / "sd")
    shutil.copytree(llava, folder / "models" / "llava")
    (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    config = {
        "name": "test",
        "corpus": [{"source": "prompts.txt"}],
        "generators": {"model": "models/sd", "steps": 2, "num_cpus": 0.5},
        "scorers": {"model": "models/llava", "num_cpus": 0.5},
        "optimizer": {"method": "noise_diffusion", "rounds": 1, "candidates": 2},
        "output": {"dir": "run"},
        "faults": {"retries": 0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "faults").mkdir()
    (folder / "faults" / "sitecustomize.py").write_text(FAULTS)


@contextmanager
def head_node(folder: Path) -> Iterator[str]:
    """A cluster that was started in ``folder``; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    temp_dir = f"/tmp/ray-{port}"  # under pytest's folder, its sockets' names would be too long
    options = ["--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    head = subprocess.Popen(
        [SCRIPTS / "ray", "start", "--head", "--block", f"--temp-dir={temp_dir}", *options],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(PATIENCE)
        shutil.rmtree(temp_dir, ignore_errors=True)


def check_workers(folder: Path, *overrides: str) -> list[str]:
    """Run the commands that start workers, in a folder full of modules of our names; returns the rows' ids."""
    (folder / "broken").touch()
    noisesmith(folder, "run", "config.yaml", *overrides, code=1)
    (folder / "broken").unlink()
    assert "2 failed rows" in noisesmith(folder, "retry", "run", *overrides)
    row_ids = [row["id"] for row in read_rows(folder / "run", ["id"])]
    assert len(row_ids) == len(PROMPTS)
    check_trace(folder)
    return row_ids


def check_trace(folder: Path) -> None:
    assert not (folder / "trace").exists(), (folder / "trace").read_text()


def test_no_command_imports_what_lies_in_the_current_folder(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    write_folder(tmp_path, tiny_sd, tiny_llava)
    assert "rows" in noisesmith(tmp_path, "plan", "config.yaml")
    row_ids = check_workers(tmp_path)
    assert "bit-identical" in noisesmith(tmp_path, "replay", "run", row_ids[0])
    check_trace(tmp_path)


def test_nor_do_the_workers_of_a_joined_cluster(tmp_path: Path, tiny_sd: Path, tiny_llava: Path) -> None:
    write_folder(tmp_path, tiny_sd, tiny_llava)
    with head_node(tmp_path) as address:
        check_workers(tmp_path, f"ray.address={address}")
