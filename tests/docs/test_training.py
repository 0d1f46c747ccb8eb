"""The page about training: its options and its config are those of the command."""

from __future__ import annotations

import re
from dataclasses import asdict
from inspect import signature
from pathlib import Path

import yaml

from noisesmith.pipeline.bench.training import ARMS, TrainingOptions
from noisesmith.pipeline.bench.training.selection import check_selection, judges_of_record
from noisesmith.pipeline.cli.bench import bench_training
from noisesmith.pipeline.config import RunConfig
from tests.docs.test_snippets import snippets

PAGE = "docs/training.md"
TEXT = (Path(__file__).parents[2] / PAGE).read_text(encoding="utf-8")


def test_the_defaults_of_the_command_are_those_of_the_options_and_of_the_page() -> None:
    parameters = signature(bench_training).parameters
    for name, value in asdict(TrainingOptions()).items():
        assert parameters[name].default == value
        (row,) = re.findall(rf"^\| `--{name.replace('_', '-')} \w+` \| ([^|]+) \|", TEXT, re.MULTILINE)
        assert value is None or float(row) == value, name
    assert f"| `--seeds K` | {parameters['seeds'].default} |" in TEXT


def test_every_arm_is_explained() -> None:
    for arm in ARMS:
        assert f"| `{arm.label}` |" in TEXT


def test_its_config_selects_and_leaves_a_judge() -> None:
    (snippet,) = [snippet for snippet in snippets(PAGE) if snippet.language == "yaml"]
    config = RunConfig.model_validate(yaml.safe_load(snippet.text))
    check_selection(config)
    assert judges_of_record(config) == ["detector"]
