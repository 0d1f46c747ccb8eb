"""The RayJob is one the API server accepts, its pods can start, and its run fits the cluster it asks for."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from noisesmith.pipeline.config import load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.preflight import check_resources

ROOT = Path(__file__).parents[2]
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
DOCUMENTS = {one["kind"]: one for one in yaml.safe_load_all((ROOT / "infra/kuberay-rayjob.yaml").read_text())}
SPEC = DOCUMENTS["RayJob"]["spec"]
CLUSTER = SPEC["rayClusterSpec"]
HEAD = CLUSTER["headGroupSpec"]["template"]["spec"]
WORKERS = CLUSTER["workerGroupSpecs"]
PODS = [HEAD, *(group["template"]["spec"] for group in WORKERS)]
VALIDATOR = jsonschema.Draft202012Validator(yaml.safe_load((Path(__file__).parent / "rayjob.schema.yaml").read_text()))


def quantity(value: str | int) -> float:
    number = str(value)
    return float(number[:-2]) * UNITS[number[-2:]] if number[-2:] in UNITS else float(number)


def limit(pod: dict[str, Any], resource: str) -> float:
    return sum(quantity(container["resources"]["limits"].get(resource, 0)) for container in pod["containers"])


def total(resource: str) -> float:
    return limit(HEAD, resource) + sum(
        group["minReplicas"] * limit(group["template"]["spec"], resource) for group in WORKERS
    )


def test_the_job_follows_the_custom_resource_definition() -> None:
    VALIDATOR.check_schema(VALIDATOR.schema)
    VALIDATOR.validate(DOCUMENTS["RayJob"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: job["spec"].update(entryPoint="x"),
        lambda job: job["spec"].pop("entrypoint"),
        lambda job: job["spec"].update(submissionMode="Kubernetes"),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-gpus": 0}),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"].update(containers=[]),
    ],
)
def test_the_schema_catches_what_the_definition_forbids(spoil: Callable[[dict[str, Any]], Any]) -> None:
    job = copy.deepcopy(DOCUMENTS["RayJob"])
    spoil(job)
    assert not VALIDATOR.is_valid(job)


def test_every_mount_has_a_volume_and_every_volume_its_source() -> None:
    sources = {(kind, one["metadata"]["name"]) for kind, one in DOCUMENTS.items()}
    for pod in PODS:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == set(volumes)
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in sources
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in sources


def test_shared_memory_is_memory_and_fits_in_the_pod() -> None:
    """A memory emptyDir counts against the containers' limits; Ray puts a third of memory into /dev/shm by default."""
    for pod in PODS:
        (shm,) = (volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm")
        (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "shm")
        assert (shm["medium"], mount["mountPath"]) == ("Memory", "/dev/shm")
        assert quantity(shm["sizeLimit"]) < limit(pod, "memory") / 2


def test_gpus_are_on_workers_only_and_requested_as_limited() -> None:
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    assert limit(HEAD, "nvidia.com/gpu") == 0
    for pod in PODS:
        for container in pod["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_output_is_shared_by_all_pods_and_written_as_the_image_s_user() -> None:
    assert DOCUMENTS["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert {pod["securityContext"]["runAsUser"] for pod in PODS} == {1000}
    assert "USER 1000" in (ROOT / "infra/Dockerfile").read_text()


def test_the_cluster_speaks_the_pinned_ray() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {pin.name: str(pin.specifier) for line in lines if line and line[0] != "#" for pin in [Requirement(line)]}
    assert pins["ray"] == f"=={CLUSTER['rayVersion']}"


def test_the_run_is_valid_and_fits_the_cluster_with_nothing_to_spare(tmp_path: Path) -> None:
    program, command, config_path, *overrides = shlex.split(SPEC["entrypoint"])
    assert (program, command, overrides[-2]) == ("noisesmith", "run", "--out")
    mounts = {mount["name"]: mount["mountPath"] for mount in HEAD["containers"][0]["volumeMounts"]}
    folder, _, name = config_path.rpartition("/")
    assert folder == mounts["config"]
    assert overrides[-1].startswith(f"{mounts['runs']}/")

    files = DOCUMENTS["ConfigMap"]["data"]
    (tmp_path / name).write_text(files[name])
    config = load_config(tmp_path / name, overrides[:-2])
    assert config.ray.address == "auto"
    assert config.corpus[0].source.removeprefix(f"{folder}/") in files

    have = {"GPU": total("nvidia.com/gpu"), "CPU": total("cpu")}
    check_resources(config, have, "the cluster")
    with pytest.raises(UserError, match="GPU"):
        check_resources(config, have | {"GPU": have["GPU"] - 1}, "the cluster")
