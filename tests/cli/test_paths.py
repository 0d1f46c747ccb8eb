"""A path arrives as it was typed, on the command line, in an override or in YAML; only a leading ``~`` is replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import noisesmith as ns
from noisesmith.pipeline.cli import app
from noisesmith.pipeline.cli.bench import _config_and_overrides
from noisesmith.pipeline.cli.common import local_path, read_settings
from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator
from noisesmith.pipeline.prompts import open_corpus
from noisesmith.pipeline.sinks import config_of_run, open_run
from noisesmith.pipeline.storage.home import location_of
from noisesmith.pipeline.storage.paths import is_remote, to_path

NAMES = [
    "1e3", "2026-01-02", "it's", 'a "b"', '"quoted"', "'quoted'", "{x: y}", "a: b", "#5", "a #5", "a:b", "C:\\new",
    "back\\slash", "tab\there", "new\nline", "${ABSENT}", "$(x)", "`x`", "100%", "%41", "naïve", "no\xa0break", "-lead",
    "--out", "a b ", "a,b", "a&b;c|d", "!x", "&x", "x~", "yes", "False", "👁", "a'\"\\$`b",
]  # fmt: skip
PLAIN = {"corpus": {"source": "embedded/simple", "size": 2}}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


def config_file(**changes: object) -> Path:
    path = Path("config.yaml")
    path.write_text(yaml.safe_dump(PLAIN | changes, allow_unicode=True))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_an_output_directory_is_the_one_that_was_typed(name: str) -> None:
    assert read_settings(config_file(), None, name).run_dir == Path(name)
    assert read_settings(config_file(), [f"output.dir=out/{name}"], None).run_dir == Path("out", name)
    settings = load_config(config_file(output={"dir": f"out/{name}"}))
    assert settings.run_dir == Path("out", name)
    open_run(settings, open_corpus(settings))
    assert config_of_run(settings.run_dir).run_dir == settings.run_dir
    assert os.listdir("out") == [name]  # noqa: PTH208


@pytest.mark.parametrize("name", NAMES)
def test_an_override_names_a_corpus_or_a_model_as_typed(name: str) -> None:
    folder = Path("in", name)
    folder.mkdir(parents=True)
    (folder / "p.txt").write_text("a cat\n")
    overrides = [f"corpus.0.source={folder}/p.txt", f"generators.model={folder}", f"scorers.model={folder}"]
    settings = load_config(config_file(corpus=[{"source": "x"}]), overrides)
    assert [row.prompt for row in open_corpus(settings).rows()] == ["a cat"]
    assert settings.panel[0].model == f"in/{name}"
    with pytest.raises(UserError) as caught:
        find_generator(settings.generators)
    assert "has no model_index.json" in str(caught.value), "the folder was found"


@pytest.mark.parametrize("text", ["", "null"])
def test_an_override_can_take_a_path_back(text: str) -> None:
    path = config_file(output={"dir": "elsewhere"})
    assert load_config(path, [f"output.dir={text}"]).run_dir == Path("runs/run")


def test_other_overrides_are_yaml() -> None:
    settings = load_config(config_file(), ["optimizer.rounds=7", "output.formats=[parquet]", "name='x'"])
    assert (settings.optimizer.rounds, settings.output.formats, settings.name) == (7, ("parquet",), "x")


def out_option(text: str) -> RunConfig:
    return read_settings(config_file(), None, text)


def override(text: str) -> RunConfig:
    return load_config(config_file(), [f"output.dir={text}"])


def yaml_value(text: str) -> RunConfig:
    return load_config(config_file(output={"dir": text}))


@pytest.mark.parametrize("given", [out_option, override, yaml_value])
def test_a_leading_tilde_is_the_home_folder_once(given: Callable[[str], RunConfig], home: Path) -> None:
    assert given("~/runs/cats").run_dir == home / "runs/cats"
    assert given("~/~").run_dir == home / "~"
    assert given("./~/x").run_dir == Path("~/x")
    assert given("runs/~").run_dir == Path("runs/~")
    with pytest.raises(UserError, match=r"output\.dir: .*~no-such-user is the home folder of no user"):
        given("~no-such-user/x")


def test_a_folder_called_tilde_stays_one_when_its_run_is_read() -> None:
    settings = load_config(config_file(output={"dir": "./~x"}))
    open_run(settings, open_corpus(settings))
    assert config_of_run(Path("~x")).run_dir == Path("~x")
    assert to_path(location_of(Path("~x"))) == Path("~x")


def test_corpora_and_models_are_found_below_the_home_folder(home: Path) -> None:
    (home / "p.txt").write_text("a cat\n")
    Path("~").mkdir()
    Path("~/p.txt").write_text("a dog\n")
    for source, prompt in (("~/p.txt", "a cat"), ("./~/p.txt", "a dog")):
        settings = load_config(config_file(corpus=[{"source": source}]))
        assert [row.prompt for row in open_corpus(settings).rows()] == [prompt]


def test_a_config_below_the_home_folder_is_found(home: Path) -> None:
    config_file().rename(home / "c.yaml")
    assert load_config("~/c.yaml").corpus[0].size == 2
    assert local_path("~/c.yaml") == home / "c.yaml"
    result = CliRunner().invoke(app, ["plan", "~/c.yaml", "--out=~/runs/cats"])
    assert result.exit_code == 0, result.output
    assert str(home / "runs/cats") in result.output


@pytest.mark.parametrize("text", ["s3://bucket/x", "ftp://host/x", "~no-such-user/x"])
def test_a_local_path_is_refused_if_it_is_elsewhere(text: str) -> None:
    with pytest.raises(UserError) as caught:
        local_path(text)
    assert str(caught.value).startswith(f"{text}: ")


def test_python_functions_refuse_it_in_a_sentence_too() -> None:
    for call in (ns.read_rows, lambda location: ns.replay(location, "id"), ns.load_config):
        with pytest.raises(ns.UserError, match=r"^(run_dir|config): ~no-such-user is the home folder of no user; "):
            call("~no-such-user/x")


def test_urls_stay_urls() -> None:
    settings = load_config(config_file(), ["output.dir=s3://bucket/a~b", "scorers.model=http://host:8000/v1"])
    assert is_remote(settings.run_dir)
    assert str(settings.run_dir) == "s3://bucket/a~b"
    assert settings.panel[0].model == "http://host:8000/v1"
    assert to_path("file:///data/a%20b") == Path("/data/a b")


def test_an_override_with_a_url_is_no_config_of_a_comparison() -> None:
    words = ["scorers.model=http://host:8000/v1", "seed=1"]
    assert _config_and_overrides(words) == (None, words)
