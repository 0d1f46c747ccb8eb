"""The RayJob and the RayCluster are ones the API server accepts, their pods can start, and their runs fit them."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.preflight import check_resources

ROOT = Path(__file__).parents[2]
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
VALIDATOR = jsonschema.Draft202012Validator(yaml.safe_load((Path(__file__).parent / "kuberay.schema.yaml").read_text()))
Documents = dict[str, dict[str, Any]]


def read(name: str) -> Documents:
    """The documents of a file of ``infra/``, by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((ROOT / "infra" / name).read_text())}


JOB = read("kuberay-rayjob.yaml")
CLUSTER = read("kuberay-raycluster.yaml")
both = pytest.mark.parametrize("documents", [JOB, CLUSTER], ids=["job", "cluster"])


def spec_of(documents: Documents) -> dict[str, Any]:
    """The cluster's part of either resource."""
    spec: dict[str, Any] = CLUSTER["RayCluster"]["spec"]
    if "RayJob" in documents:
        spec = documents["RayJob"]["spec"]["rayClusterSpec"]
    return spec


def head_of(documents: Documents) -> dict[str, Any]:
    pod: dict[str, Any] = spec_of(documents)["headGroupSpec"]["template"]["spec"]
    return pod


def pods_of(documents: Documents) -> list[dict[str, Any]]:
    workers = [group["template"]["spec"] for group in spec_of(documents)["workerGroupSpecs"]]
    return [head_of(documents), *workers]


def quantity(value: str | int) -> float:
    number = str(value)
    return float(number[:-2]) * UNITS[number[-2:]] if number[-2:] in UNITS else float(number)


def limit(pod: dict[str, Any], resource: str) -> float:
    return sum(quantity(container["resources"]["limits"].get(resource, 0)) for container in pod["containers"])


def total(documents: Documents, resource: str, replicas: str) -> float:
    """What the cluster has at its smallest (``minReplicas``) or largest (``maxReplicas``)."""
    found = limit(head_of(documents), resource)
    for group in spec_of(documents)["workerGroupSpecs"]:
        found += group[replicas] * limit(group["template"]["spec"], resource)
    return found


def test_both_follow_the_custom_resource_definitions() -> None:
    VALIDATOR.check_schema(VALIDATOR.schema)
    VALIDATOR.validate(JOB["RayJob"])
    VALIDATOR.validate(CLUSTER["RayCluster"])


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
    job = copy.deepcopy(JOB["RayJob"])
    spoil(job)
    assert not VALIDATOR.is_valid(job)


@both
def test_every_mount_has_a_volume_and_every_volume_its_source(documents: Documents) -> None:
    sources = {(kind, one["metadata"]["name"]) for kind, one in documents.items()}
    for pod in pods_of(documents):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == set(volumes)
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in sources
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in sources


@both
def test_shared_memory_is_memory_and_fits_in_the_pod(documents: Documents) -> None:
    """A memory emptyDir counts against the containers' limits; Ray puts a third of memory into /dev/shm by default."""
    for pod in pods_of(documents):
        (shm,) = (volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm")
        (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "shm")
        assert (shm["medium"], mount["mountPath"]) == ("Memory", "/dev/shm")
        assert quantity(shm["sizeLimit"]) < limit(pod, "memory") / 2


@both
def test_gpus_are_on_workers_only_and_requested_as_limited(documents: Documents) -> None:
    assert spec_of(documents)["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    assert limit(head_of(documents), "nvidia.com/gpu") == 0
    for pod in pods_of(documents):
        for container in pod["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]


@both
def test_output_is_shared_by_all_pods_and_written_as_the_image_s_user(documents: Documents) -> None:
    assert documents["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert {pod["securityContext"]["runAsUser"] for pod in pods_of(documents)} == {1000}
    assert "USER 1000" in (ROOT / "infra/Dockerfile").read_text()


@both
def test_the_cluster_speaks_the_pinned_ray(documents: Documents) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {pin.name: str(pin.specifier) for line in lines if line and line[0] != "#" for pin in [Requirement(line)]}
    assert pins["ray"] == f"=={spec_of(documents)['rayVersion']}"


def config_of(documents: Documents, command: list[str], tmp_path: Path) -> RunConfig:
    """The config of ``noisesmith run CONFIG … --out DIR``, as a pod reads it."""
    program, run, path, *overrides = command
    assert (program, run, overrides[-2]) == ("noisesmith", "run", "--out")
    mounts = {mount["name"]: mount["mountPath"] for mount in head_of(documents)["containers"][0]["volumeMounts"]}
    folder, _, name = path.rpartition("/")
    assert folder == mounts["config"]
    assert overrides[-1].startswith(f"{mounts['runs']}/")
    files = documents["ConfigMap"]["data"]
    (tmp_path / name).write_text(files[name])
    config = load_config(tmp_path / name, overrides[:-2])
    assert config.ray.address == "auto"
    assert config.corpus[0].source.removeprefix(f"{folder}/") in files
    return config


def check_fit(config: RunConfig, documents: Documents, replicas: str) -> None:
    """The cluster has what the run asks for, and no GPU more."""
    have = {"GPU": total(documents, "nvidia.com/gpu", replicas), "CPU": total(documents, "cpu", replicas)}
    check_resources(config, have, "the cluster")
    with pytest.raises(UserError, match="GPU"):
        check_resources(config, have | {"GPU": have["GPU"] - 1}, "the cluster")


def test_the_job_s_run_is_valid_and_fits_the_cluster_with_nothing_to_spare(tmp_path: Path) -> None:
    config = config_of(JOB, shlex.split(JOB["RayJob"]["spec"]["entrypoint"]), tmp_path)
    check_fit(config, JOB, "minReplicas")


def test_the_cluster_s_run_waits_for_nodes_up_to_the_most_that_there_can_be(tmp_path: Path) -> None:
    (line,) = re.findall(r"# +kubectl exec .* -- (noisesmith .*)", (ROOT / "infra/kuberay-raycluster.yaml").read_text())
    config = config_of(CLUSTER, line.split(), tmp_path)
    assert config.ray.elastic
    assert spec_of(CLUSTER)["enableInTreeAutoscaling"]
    assert total(CLUSTER, "nvidia.com/gpu", "minReplicas") == 0
    check_fit(config, CLUSTER, "maxReplicas")
