"""``--out`` is a folder's name, not text of a config."""

from __future__ import annotations

from pathlib import Path

import pytest

from noisesmith.pipeline.cli.common import read_settings
from noisesmith.pipeline.config import load_config


@pytest.mark.parametrize("name", ["null", "1e3", "it's", 'a "b"', "{x: y}", "a: b", "#5", "C:\\new", "tab\there"])
def test_out_is_taken_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("corpus: [{source: prompts.txt}]\noutput: {dir: elsewhere}\n")
    assert read_settings(Path("config.yaml"), ["seed=3"], name).run_dir == Path(name)
    assert load_config("config.yaml").run_dir == Path("elsewhere")


def test_out_comes_after_an_override(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("corpus: [{source: prompts.txt}]\n")
    assert read_settings(path, ["output.dir=first"], "second").run_dir == Path("second")
