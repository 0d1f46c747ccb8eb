"""What ``ray up`` checks of a cluster file, without a cloud."""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from noisesmith.pipeline.config import load_config
from noisesmith.pipeline.preflight import check_resources
from tests.infra.test_dockerfile import instructions

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "infra").glob("ray-*.yaml"))
AWS = ROOT / "infra/ray-aws.yaml"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
HOME = "/home/noisesmith"


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ray_accepts_the_file(path: Path) -> None:
    document = read(path)
    validate_config(prepare_config(copy.deepcopy(document)))
    with pytest.raises(ValidationError):
        validate_config(prepare_config(document | {"max_worker": 1}))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_who_has_the_token_may_use_the_cluster(path: Path) -> None:
    document = read(path)
    assert "~/.ray/auth_token" in document["file_mounts"].values()
    starts = " ".join([*document["head_start_ray_commands"], *document["worker_start_ray_commands"]])
    options = " ".join(document.get("docker", {}).get("run_options", []))
    count = starts.count("RAY_AUTH_MODE=token /") + 2 * options.count("RAY_AUTH_MODE=token")
    assert count == starts.count("ray start") == 2


def test_the_commands_of_the_header_name_this_file_and_run(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    for path in FILES:
        text = path.read_text()
        assert set(re.findall(r"infra/ray-[a-z-]+\.yaml", text)) == {f"infra/{path.name}"}
        (command,) = re.findall(r"noisesmith run (\S+) ([^']*)'", text)
        (tmp_path / "my-run.yaml").write_text("corpus: {source: prompts.txt}\n")
        overrides = command[1].split(" --out")[0].split()
        assert load_config(tmp_path / "my-run.yaml", overrides).ray.address == "auto"


def test_the_run_starts_in_the_folder_to_which_its_files_were_copied() -> None:
    """A config names its corpus by a path from the current folder, and a container starts in another one."""
    text = AWS.read_text()
    copied = dict(re.findall(r"ray rsync-up \S+ (\S+) (\S+)", text))
    ((folder, config),) = re.findall(r"'cd (\S+) && noisesmith run (\S+) ", text)
    assert folder == "~/"  # the only form in which Ray puts the container's home for the tilde
    assert copied == {name: f"{HOME}/{name}" for name in (config, "prompts.txt")}


def test_the_image_has_what_ray_calls_in_a_container() -> None:
    """Files arrive by rsync, the head reaches new machines by ssh and asks Amazon for them with boto3."""
    text = AWS.read_text()
    assert "--tmux" in text
    (install,) = [line for line in instructions() if "apt-get install" in line]
    assert {"openssh-client", "rsync", "tmux"} <= set(install.split())
    (extra,) = re.findall(r"infra/Dockerfile with EXTRAS=(\w+)", text)
    assert f"'.[{extra}]'" in text
    assert {"boto3", "s3fs"} <= set(EXTRAS[extra])


def test_a_run_finds_all_its_places_on_the_machines_of_amazon() -> None:
    """Four machines of type g6.12xlarge, as Amazon describes it: 48 cores, 4 GPUs."""
    kinds = read(AWS)["available_node_types"]
    gpu = kinds["gpu"]
    have = {name: float(number * gpu["max_workers"]) for name, number in gpu["resources"].items()}
    assert gpu["node_config"]["InstanceType"] == "g6.12xlarge"
    assert gpu["resources"] == {"CPU": 48, "GPU": 4}
    assert kinds["head"]["resources"] == {"CPU": 0}
    config = load_config(
        ROOT / "configs/sd15-clipflant5.yaml", ["generators.count=12", "generators.num_gpus=1", "scorers.count=4"]
    )
    check_resources(config, have, "the cluster")
