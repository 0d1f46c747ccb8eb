"""The code in a card and the command after a run open the dataset as they stand, whatever its folder is called."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from PIL import Image

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import Provenance
from noisesmith.pipeline.report import write_report
from noisesmith.pipeline.report.usage import Place, open_command, usage
from noisesmith.pipeline.sinks.samples import NEVER_NULL
from noisesmith.pipeline.storage.home import shell_word
from noisesmith.pipeline.storage.paths import to_path

MakeRun = Callable[..., tuple[Path, RunConfig, Provenance]]
NAMES = [
    "runs/plain", "/absolute", "it's", 'a "b"', "a#b", "a: b", "c:x", "{a,b}", "{1..3}", "back\\slash", "new\nline",
    "naïve\xa0👁", "-lead", "~x", "./~/x", "${ABSENT}", "100%", "%41", "a b ", "$(x)`y`", "json", "webdataset", "a!b",
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(Image.Image, "show", lambda _: None)
    datasets.disable_progress_bars()
    monkeypatch.chdir(tmp_path)


def code_of(card: str) -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    return code


def card_of(made: tuple[Path, RunConfig, Provenance]) -> str:
    run_dir, config, provenance = made
    write_report(run_dir, config, provenance, {})
    return (run_dir / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_code_and_the_command_open_a_run_in_any_folder(make_run: MakeRun, name: str, tmp_path: Path) -> None:
    location = name.replace("/absolute", str(tmp_path / "absolute"))
    run_dir, config, provenance = make_run(7, output={"dir": f"./{name}" if name == "~x" else location})
    found: dict[str, Any] = {}
    exec(code_of(card_of((run_dir, config, provenance))), found)
    assert found["rows"]["prompt"][0] == found["sample"]["txt"]
    assert found["recipe"]["seed"] == 7
    shown = subprocess.check_output(["bash", "-c", f"printf '%s\\0' {open_command(run_dir)}"], text=True)
    python, option, code, end = shown.split("\0")
    assert (python, option, end) == ("python", "-c", "")
    with redirect_stdout(io.StringIO()) as output:
        exec(code)
    assert "num_rows: 7" in output.getvalue()


@pytest.mark.parametrize("name", [*NAMES, "~", "a'b\"c", "*"])
def test_a_shown_command_names_the_same_folder(name: str) -> None:
    word = shell_word(Path(name))
    assert not word.startswith("-")
    typed = subprocess.check_output(["bash", "-c", f"printf '%s.' {word}"], text=True).removesuffix(".")
    assert to_path(typed) == Path(name)


def test_the_command_runs_in_a_shell(make_run: MakeRun) -> None:
    run_dir, config, provenance = make_run(2, output={"dir": "it's"})
    write_report(run_dir, config, provenance, {})
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", open_command(run_dir)], capture_output=True, text=True, env=environment)
    assert "num_rows: 2" in done.stdout, done.stderr


def test_a_run_of_tars_alone_is_opened_with_the_types_that_its_card_states(make_run: MakeRun) -> None:
    card = card_of(make_run(7, output={"formats": ["webdataset"]}))
    found: dict[str, Any] = {}
    exec(code_of(card), found)
    rows = found["rows"]
    assert isinstance(rows[0]["png"], Image.Image)
    stated = yaml.safe_load(card.split("---\n")[1])["dataset_info"]["features"]
    assert datasets.Features._from_yaml_list(stated) == rows.features
    assert json.loads(rows[0]["json"]["topic"]) == "pets"
    assert rows.features["json"]["judge_eye"] == datasets.Value("string")


@pytest.mark.parametrize("formats", [["parquet", "webdataset"], ["webdataset"], ["parquet"]])
def test_the_card_names_the_columns_that_are_json_text(make_run: MakeRun, formats: list[str]) -> None:
    card = card_of(make_run(2, output={"formats": formats})).replace("\\", "")
    sentence = re.search(r"are read with `json\.loads`: (.*)\.", card)
    if "webdataset" not in formats:
        assert sentence is None
        return
    assert sentence is not None
    assert sentence[1].split(", ") == [
        "judge_eye_initial",
        "judge_eye",
        "parent_id",
        "recipe",
        "prompt_tokens_cut",
        "topic",
    ]
    assert not NEVER_NULL & set(sentence[1].split(", "))


def test_no_placeholder_is_left_in_a_card(make_run: MakeRun) -> None:
    for method in ("noise_diffusion", "pgd"):
        card = card_of(make_run(1, optimizer={"method": method}, output={"dir": f"runs/{method}", "noise": False}))
        assert "RUN_DIR" not in card
        assert f'load_dataset("runs/{method}"' in card


def test_a_run_in_a_store_is_opened_by_its_files() -> None:
    run_dir = to_path("s3://bucket/some/run")
    both = usage(Place(run_dir), {"parquet": "data/*.parquet", "webdataset": "tars/*.tar"})
    assert 'load_dataset("parquet", data_files="s3://bucket/some/run/data/*.parquet", split="train")' in both
    assert 'load_dataset("webdataset", data_files="s3://bucket/some/run/tars/*.tar", split="train", streaming=' in both
    compile(both, "card", "exec")
