"""What ``noisesmith plan --calibrate`` measured, as a JSON file that later plans and runs read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from noisesmith.pipeline.config import Actors, RunConfig
from noisesmith.pipeline.config.flat import without_positions
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.machine import cpu_name, versions
from noisesmith.pipeline.models.runtime import device_for, threads_for
from noisesmith.pipeline.preflight import FoundModels
from noisesmith.pipeline.speed.ladder import BatchTiming, SideTiming
from noisesmith.pipeline.storage.files import write_atomic

FORMAT = 1
_TIMED = ("generators.", "scorers.", "optimizer.", "judges.")
# Fields of these sections that change neither how long a call takes nor how much memory it needs.
_WITHOUT_EFFECT = (
    "generators.negative_prompt", "generators.max_prompt_tokens", "optimizer.rounds", "optimizer.target_score",
    "optimizer.patience", "optimizer.unet_evaluations", "scorers.weight", "scorers.calibration",
)  # fmt: skip
_ROUNDING = ("attention", "vae_slicing", "vae_checkpointing", "compile", "cpu_offload")  # operational, and of effect
_REMEDY = "measure again with noisesmith plan CONFIG --calibrate"


@dataclass(frozen=True)
class Speeds:
    """How fast the two sides of a run are.

    Attributes:
        made: when this was measured, as an ISO date.
        versions: of the libraries.
        conditions: what the figures hold for: config fields, revisions of the models and devices, by name.
        generator: the timing of a generator.
        scorers: that of a scorer of each group, by the section that places its actors.
    """

    made: str
    versions: Mapping[str, str]
    conditions: Mapping[str, object]
    generator: SideTiming
    scorers: Mapping[str, SideTiming]

    @property
    def sides(self) -> dict[str, SideTiming]:
        """The timing of each side by its section, the generators first."""
        return {"generators": self.generator, **self.scorers}


def speeds_of(
    config: RunConfig, models: FoundModels, generator: SideTiming, scorers: Mapping[str, SideTiming]
) -> Speeds:
    """What was measured here and now."""
    return Speeds(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        conditions=conditions_of(config, models) | devices_of(config),
        generator=generator,
        scorers=scorers,
    )


def conditions_of(config: RunConfig, models: FoundModels) -> dict[str, object]:
    """What the speed of a config's calls depends on besides the device: fields, and the revisions of its models."""
    conditions: dict[str, object] = {}
    for key, value in config.semantic().items():
        field = without_positions(key)
        if field.startswith(_TIMED) and not field.startswith(_WITHOUT_EFFECT):
            conditions[key] = value
    for name in _ROUNDING:
        conditions[f"generators.{name}"] = getattr(config.generators, name)
    conditions["scorers"] = [[member.name for member in group] for group in config.groups]
    conditions["revision of generators.model"] = models.generator.revision
    for found in (*models.scorers, *models.judges):
        conditions[f"revision of {found.source.field}"] = found.revision
    return conditions


def devices_of(config: RunConfig) -> dict[str, object]:
    """On what the actors of each side work, if they are on this machine."""
    devices: dict[str, object] = {"device of generators": device_name(config.generators)}
    for placed, *_ in config.groups:
        devices[f"device of {placed.section}"] = device_name(placed)
    return devices


def device_name(side: Actors) -> str:
    """The device of one actor, such as a GPU's name, or that of the processor with the number of threads."""
    if device_for(side.num_gpus) == "cuda":
        import torch

        return torch.cuda.get_device_name(0)
    return f"{cpu_name()}, threads: {threads_for(side.num_cpus)}"


def check_speeds(speeds: Speeds, where: str, config: RunConfig, models: FoundModels) -> None:
    """Refuse what was measured for something else. The devices of a cluster that is joined are not known here.

    Raises:
        UserError: names the first difference.
    """
    now = conditions_of(config, models)
    if config.ray.address is None:
        now |= devices_of(config)
    then = dict(speeds.conditions)
    for key in (*now, *then):
        if key.startswith("device of ") and key not in now:
            continue
        if now.get(key) != then.get(key):
            was, is_now = (repr(side.get(key, "(absent)")) for side in (then, now))
            raise UserError(f"{where}: was measured where {key} was {was}, and it is {is_now} now; {_REMEDY}")


def check_writable(path: Path) -> None:
    """Refuse a place where no calibration can be stored, before anything is measured.

    Raises:
        UserError: there is no such folder, or nothing can be written there.
    """
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path}: is no file that can be written; name another one with --calibration")


def write_speeds(path: Path, speeds: Speeds) -> None:
    """Write a calibration file.

    Raises:
        UserError: it cannot be written.
    """
    content = json.dumps({"format": FORMAT, **asdict(speeds)}, indent=2, ensure_ascii=False)
    try:
        write_atomic(path, content.encode() + b"\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); name another file with --calibration"
        ) from error


def read_speeds(path: Path) -> Speeds:
    """Read a calibration file.

    Raises:
        UserError: there is none, or it is damaged or of another format.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such calibration file; make it with noisesmith plan CONFIG --calibrate") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is no readable calibration file ({reason(error)}); {_REMEDY}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: is no calibration file of this version of noisesmith; {_REMEDY}")
    try:
        return Speeds(
            made=content["made"],
            versions=content["versions"],
            conditions=content["conditions"],
            generator=_side(content["generator"]),
            scorers={name: _side(side) for name, side in content["scorers"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: a part of the calibration is missing ({reason(error)}); {_REMEDY}") from error


def _side(content: dict[str, Any]) -> SideTiming:
    timings = tuple(BatchTiming(**timing) for timing in content["timings"])
    return SideTiming(timings, content["best"], content["stopped"])
