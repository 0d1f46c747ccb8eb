"""Every snippet of the README and of the Python API's page runs as it stands.

``make demo`` and ``make test`` themselves are run by ``.ci/run``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from noisesmith.pipeline import cli
from tests.hub import Hub

pytestmark = pytest.mark.timeout(1500)
ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    language: str
    text: str


def snippets(page: str) -> list[Snippet]:
    return [Snippet(language, text) for language, text in FENCE.findall((ROOT / page).read_text(encoding="utf-8"))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a reader has it after ``make``: the command in .venv/bin, and a list of prompts of their own."""
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    (tmp_path / "prompts.csv").write_text('caption,source\n"a cat above a red car",web\na dog,book\n')
    return tmp_path


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_all(folder: Path, page: str) -> None:
    """Python snippets share one process, as in a notebook; the others run in the order of the page before them.

    Commands on the run that ``make demo`` makes come last, and find another finished run of the page in its place.
    """
    python = []
    on_demo: list[str] = []
    for snippet in snippets(page):
        match snippet.language:
            case "python" if name := re.match(r"# (\w+\.py)\n", snippet.text):
                (folder / name[1]).write_text(snippet.text)
            case "python":
                python.append(snippet.text)
            case "yaml" if snippet.text.startswith("# "):
                (folder / snippet.text.splitlines()[0].removeprefix("# ")).write_text(snippet.text)
            case "bash" if "runs/quickstart" in snippet.text and not snippet.text.startswith("make "):
                on_demo.append(snippet.text)
            case "bash" if not snippet.text.startswith("make "):
                run(folder, "bash", "-euc", snippet.text)
    for text in on_demo:
        (folder / "runs" / "quickstart").symlink_to("my-run")
        run(folder, "bash", "-euc", text)
    run(folder, sys.executable, "-c", "\n".join(python))


@pytest.mark.slow
def test_the_readme(folder: Path) -> None:
    run_all(folder, "README.md")
    assert (folder / "best.png").exists()
    assert (folder / "first_row.png").exists()
    assert (folder / "runs" / "my-run" / "report.html").exists()
    assert (folder / "train-set" / "train" / "metadata.jsonl").exists()


def test_the_readmes_make_targets_are_what_ci_runs() -> None:
    (commands,) = [snippet.text for snippet in snippets("README.md") if snippet.text.startswith("make ")]
    targets = re.findall(r"^make (\w+)", commands, re.MULTILINE)
    assert targets == ["demo", "test"]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^make {target}\b", ci, re.MULTILINE)


@pytest.mark.slow
def test_the_python_api(folder: Path) -> None:
    run_all(folder, "docs/python-api.md")


@pytest.mark.slow
def test_the_tutorial(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a local server in place of the Hub."""
    hub = Hub()
    monkeypatch.setenv("PATH", f"{folder}/.venv/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HF_HOME", str(folder / "home"))
    for name, value in {"ENDPOINT": hub.url, "TOKEN": "hf_write", "HUB_OFFLINE": "0", "HUB_DISABLE_XET": "1"}.items():
        monkeypatch.setenv(f"HF_{name}", value)
    run_all(folder, "docs/tutorial.md")
    hub.stop()
    assert (folder / "runs" / "tutorial" / "report.html").exists()
    assert (folder / "runs" / "after" / "stats.json").exists()
    assert list(hub.repositories) == ["my-name/tutorial"]


@pytest.mark.slow
def test_the_scorer_section_of_the_python_api_makes_a_run(folder: Path) -> None:
    """The YAML that names a class, in a whole run."""
    page = snippets("docs/python-api.md")
    (section,) = [snippet.text for snippet in page if snippet.language == "yaml"]
    (scorer,) = [snippet.text for snippet in page if "class RedShare" in snippet.text]
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").touch()
    (folder / "my_package" / "scorers.py").write_text(scorer)
    corpus = "corpus: {source: prompts.csv, column: caption}\n"
    quick = "generators: {steps: 2}\noptimizer: {rounds: 1}\nname: own\n"
    (folder / "own.yaml").write_text(corpus + quick + section)
    output = run(folder, ".venv/bin/noisesmith", "run", "own.yaml")
    assert "runs/own" in output


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in (*cli.MAKE, *cli.USE):
        assert f"| `noisesmith {command.__name__} " in text
    (row,) = re.findall(r"^\| `noisesmith bench .*", text, re.MULTILINE)
    kinds = [info.name for info in cli.bench.app.registered_commands]
    assert set(re.findall(r"`(\w+)`", row)) == set(kinds)


def test_the_readme_fits_a_reader_in_a_hurry() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1200
