"""The configs of panels: both forms of ``scorers``, what a resume may change, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from noisesmith.pipeline.config import MemberConfig, RunConfig, ScorerConfig, dump_config, load_config
from noisesmith.pipeline.config.load import validated
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.preflight import check_resources, find_models
from noisesmith.pipeline.schema import row_schema

MEMBERS: list[dict[str, Any]] = [
    {"name": "a", "weight": 2.0, "num_gpus": 1, "batch_size": 4},
    {"name": "b", "calibration": {"temperature": 1.5}, "num_gpus": 0.5, "count": 2},
    {"name": "c", "shares": "a", "gradient": False},
]


def _config(scorers: object, **sections: Any) -> RunConfig:
    return RunConfig.model_validate({"corpus": {"source": "embedded/simple", "size": 3}, "scorers": scorers} | sections)


def test_one_scorer_is_a_panel_of_one_whose_config_and_columns_do_not_change() -> None:
    config = _config({"batch_size": 2})
    (member,) = config.panel
    assert (member.name, member.weight, member.section, member.batch_size) == ("scorer", 1.0, "scorers", 2)
    assert not any(key.startswith(("scorers.0", "scorers.name", "combine")) for key in config.semantic())
    assert not any(
        name.startswith("score_") for name in row_schema(config, pa.schema([])).names if "initial" not in name
    )
    assert type(config.scorers) is ScorerConfig


def test_a_list_reads_back_equal_and_is_grouped_by_actors() -> None:
    config = _config(MEMBERS, combine="min")
    assert RunConfig.model_validate(yaml.safe_load(dump_config(config))) == config
    assert [[member.name for member in group] for group in config.groups] == [["a", "c"], ["b"]]
    assert [member.name for member in config.panel] == ["a", "c", "b"]
    assert {member.batch_size for member in config.groups[0]} == {4}, "c is in the actors of a"


def test_every_member_has_two_columns() -> None:
    names = row_schema(_config(MEMBERS), pa.schema([])).names
    assert [name for name in names if name[:6] == "score_"][1:] == [
        f"score_{member}{suffix}" for member in "acb" for suffix in ("_initial", "")
    ]


@pytest.mark.parametrize(
    ("change", "may_change"),
    [
        ({"num_gpus": 0.25}, True),
        ({"count": 7, "batch_size": 1}, True),
        ({"weight": 3.0}, False),
        ({"calibration": {"temperature": 2.0}}, False),
        ({"gradient": False}, False),
        ({"name": "z"}, False),
    ],
)
def test_where_a_member_works_may_change_on_resume_and_what_it_says_may_not(
    change: dict[str, Any], may_change: bool
) -> None:
    changed = _config([MEMBERS[0], MEMBERS[1] | change])
    before = _config(MEMBERS[:2])
    assert (changed.digest() == before.digest()) is may_change
    assert (changed.differences(before.semantic()) == []) is may_change


@pytest.mark.parametrize(
    ("scorers", "sentence"),
    [
        ([], "scorers: the list is empty; name at least one scorer"),
        ([{"model": "x"}], "scorers.0.name: is required"),
        ([{"name": "a"}, {"name": "a"}], "scorers: every scorer of the list needs its own name"),
        ([{"name": "a"}, {"name": "b", "shares": "c"}], "scorers.b.shares: 'c' is no scorer with actors of its own"),
        ([{"name": "a"}, {"name": "b", "shares": "a", "num_gpus": 1}], "scorers.1: num_gpus is that of the actors"),
        ([{"name": "x_initial"}], "scorers.0.name: 'x_initial' would give a column the name of another one"),
        ([{"name": "a", "wieght": 1}], "scorers.0.wieght: unknown key; did you mean 'weight'?"),
        ([{"name": "a", "weight": 0}], "scorers.0.weight: must be greater than 0"),
        ({"weight": 2}, "scorers.weight: only a list of scorers has this key"),
        ([{"name": "a", "calibration": {}}], "scorers.0.calibration: give either temperature or points"),
        (
            [{"name": "a", "calibration": {"points": [[0.1, 0.2], [0.3, 0.1]]}}],
            r"points must rise in both numbers, but \[0.3, 0.1\] follows \[0.1, 0.2\]",
        ),
        ([{"name": "a", "calibration": {"points": [[0, 0.2], [0.3, 0.4]]}}], "points must lie between 0 and 1"),
    ],
)
def test_a_mistake_is_one_sentence(scorers: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        validated({"scorers": scorers}, "config.yaml")


def test_an_override_reaches_a_member(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"corpus": {"source": "embedded/simple", "size": 3}, "scorers": MEMBERS[:2]}))
    config = load_config(path, ["scorers.1.model=in/a folder #1", "scorers.0.weight=5"])
    assert (config.panel[1].model, config.panel[0].weight) == ("in/a folder #1", 5.0)


SILENT = """
import torch

class Silent:
    id = "silent"
    revision = "1"
    has_gradient = False

    def __init__(self, device, dtype):
        pass

    def log_scores(self, prompts, images):
        return torch.full((len(prompts),), -1.0)
"""


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A member whose class has no gradient, as a served model has none."""
    (tmp_path / "silent_scorer.py").write_text(SILENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    return {"name": "b", "model": "silent_scorer:Silent", "allow_code": True}


def test_a_member_without_a_gradient_is_an_explicit_choice(silent: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"which scorers.b.model .* or scorers.b.gradient: false to count it in"):
        find_models(_config([{"name": "a"}, silent]))
    assert len(find_models(_config([{"name": "a"}, silent | {"gradient": False}])).scorers) == 2
    assert len(find_models(_config([{"name": "a"}, silent], optimizer={"method": "random_diffusion"})).scorers) == 2
    with pytest.raises(UserError, match="gradient is false for every scorer"):
        find_models(_config([{"name": "a", "gradient": False}, silent | {"gradient": False}]))


def test_one_object_cannot_stand_for_a_panel(silent: dict[str, Any]) -> None:
    class Own:
        id = "own"
        revision = "1"

    own: Any = Own()
    with pytest.raises(UserError, match="one object cannot stand for the 2 scorers"):
        load_models(_config([{"name": "a"}, silent | {"gradient": False}]), "cpu", own)


def test_the_gpus_of_all_members_count() -> None:
    config = _config(MEMBERS, generators={"num_gpus": 1})
    with pytest.raises(UserError, match=r"scorers\.b\.num_gpus: 1 × 1 .* \+ 2 × 0\.5 for scorers\.b make 3 GPUs"):
        check_resources(config, {"GPU": 2, "CPU": 8}, "this machine")
    check_resources(config, {"GPU": 3, "CPU": 8}, "this machine")


def test_a_member_is_called_by_its_name_in_messages() -> None:
    assert MemberConfig(name="flan").section == "scorers.flan"
    with pytest.raises(UserError, match=r"^scorers\.b\.model: "):
        find_models(_config([{"name": "a"}, {"name": "b", "model": "/nowhere/at/all"}]))
