"""A whole run: where its prompts come from, who makes and judges its images, what is written.

Fields that decide *what* is made (models, method, seed, corpus, shard size) enter :meth:`RunConfig.digest`; those that
only decide *where* and *how fast* it is made (:data:`OPERATIONAL`) may change between a run and its resume.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from noisesmith.pipeline.config.models import GeneratorConfig, JudgeConfig, ScorerConfig
from noisesmith.pipeline.config.optimizers import NoiseDiffusionConfig, OptimizerConfig
from noisesmith.pipeline.config.section import Section
from noisesmith.pipeline.storage.paths import to_path


class CorpusConfig(Section):
    """Where prompts come from: a file, a ``datasets`` name or directory, or a built-in grammar."""

    source: str = Field(min_length=1, description="path, dataset name, or embedded/simple, embedded/complex")
    size: int | None = Field(None, ge=1, le=100_000_000, description="rows to take; required for grammars")
    seed: int = Field(0, ge=0, description="seed of a grammar")
    column: str = Field("prompt", min_length=1, description="column that holds the prompt")
    subjects: str | None = Field(
        None, min_length=1, description="column that lists the prompt's subjects; found in the prompt when absent"
    )
    split: str = Field("train", min_length=1, description="split of a datasets source")
    revision: str | None = Field(None, description="revision of a datasets source")

    @model_validator(mode="after")
    def _grammar_has_size(self) -> CorpusConfig:
        if self.source.startswith("embedded/") and self.size is None:
            raise ValueError(f"{self.source} is endless, so it needs a size such as size: 100")
        return self


class OutputConfig(Section):
    """What is written, and where."""

    dir: str | None = Field(
        None, description="run directory, or its URL in a store such as s3://bucket/my-run; runs/NAME when absent"
    )
    formats: tuple[Literal["parquet", "webdataset"], ...] = ("parquet", "webdataset")
    rows_per_shard: int = Field(1000, ge=1, le=1_000_000)
    image_initial: bool = Field(True, description="keep the first image beside the best one")
    noise: bool = Field(True, description="keep the noise itself (fp16) where no recipe can rebuild it")

    @field_validator("dir")
    @classmethod
    def _known_place(cls, value: str | None) -> str | None:
        to_path(value or "")
        return value

    @field_validator("formats")
    @classmethod
    def _formats_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("list parquet, webdataset or both, each once")
        return value


class RayConfig(Section):
    """Which Ray cluster to use."""

    address: str | None = Field(None, description="auto, HOST:PORT, ray://…; absent starts a local cluster")
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Prometheus port of a local cluster, on 127.0.0.1; absent takes a free one",
    )


class FaultsConfig(Section):
    """How many faults a run tolerates before it drops a row, or stops."""

    retries: int = Field(2, ge=0, le=100, description="attempts after the first before a row is a dead letter")
    backoff_seconds: float = Field(
        1.0, ge=0, le=3600, description="wait before a row's first retry; doubles with each, up to a minute or itself"
    )
    failed_share: float = Field(
        0.5, gt=0, le=1, description="the run stops when more than this share of its rows failed, of 20 at least"
    )
    grace_seconds: float = Field(
        25.0, ge=0, le=86400, description="after SIGTERM, how long rows in flight may go on (Spot gives 30 s and more)"
    )
    placement_seconds: float = Field(
        1800.0, gt=0, description="how long one side may be without a loaded actor before the run stops"
    )


class RunConfig(Section):
    """Everything that decides a run. Absent sections take their defaults."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")
    seed: int = Field(0, ge=0, lt=2**63)
    corpus: tuple[CorpusConfig, ...] = Field((), description="required for a run; a search in Python takes prompts")
    generators: GeneratorConfig = GeneratorConfig()
    scorers: ScorerConfig = ScorerConfig()
    judges: tuple[JudgeConfig, ...] = ()
    optimizer: OptimizerConfig = NoiseDiffusionConfig()
    output: OutputConfig = OutputConfig()
    ray: RayConfig = RayConfig()
    rows_in_flight: int | None = Field(None, ge=1, description="rows searched at once; derived where absent")
    max_prompt_chars: int = Field(2000, ge=1, description="a longer prompt is refused")
    faults: FaultsConfig = FaultsConfig()

    @field_validator("corpus", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @field_validator("optimizer", mode="before")
    @classmethod
    def _paper_method_by_default(cls, value: Any) -> Any:
        return {"method": "noise_diffusion"} | value if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _judges_named_once(self) -> RunConfig:
        names = [judge.name for judge in self.judges]
        if len(set(names)) != len(names):
            raise ValueError("judges: every judge needs its own name")
        return self

    @model_validator(mode="after")
    def _previews_are_shorter(self) -> RunConfig:
        preview, steps = self.optimizer.preview, self.generators.steps
        if preview and preview.steps >= steps:
            raise ValueError(f"optimizer.preview.steps: {preview.steps} must be below generators.steps, {steps}")
        budget, least = self.optimizer.unet_evaluations, steps * (1 + (preview.keep if preview else 0))
        if budget is not None and budget < least:
            what = "the first image and the previews made again" if preview else "the first image"
            raise ValueError(f"optimizer.unet_evaluations: {budget} is below the {least} that {what} take; raise it")
        return self

    @model_validator(mode="after")
    def _attention_is_not_compiled(self) -> RunConfig:
        """Measured with torch 2.13: the losses are right, and their gradient is off by more than half its length."""
        if self.generators.compile and self.optimizer.reads_attention:
            raise ValueError(
                f"generators.compile: {self.optimizer.method} follows the gradient of the U-Net's attention, which "
                "comes out wrong from a compiled U-Net; set it to false"
            )
        return self

    @property
    def run_dir(self) -> Path:
        return to_path(self.output.dir or f"runs/{self.name}")

    @property
    def stores_noise(self) -> bool:
        """Whether rows carry their noise, since no recipe rebuilds it."""
        return self.output.noise and not self.optimizer.folds

    @property
    def replayable(self) -> bool:
        """Whether rows tell their noise, by a recipe or by the noise itself."""
        return self.output.noise or self.optimizer.folds

    def most_per_row(self) -> tuple[int, int]:
        """Images, and U-Net evaluations of the plain sampler, that one row can take at most."""
        method, steps, budget = self.optimizer, self.generators.steps, self.optimizer.unet_evaluations
        keep, search = (method.preview.keep, method.preview.steps) if method.preview else (0, steps)
        rounds = method.rounds if budget is None else min(method.rounds, (budget - steps * (1 + keep)) // search)
        again = rounds if keep and method.target_score is not None else min(keep, rounds)
        most = steps * (1 + again) + rounds * search
        return 1 + rounds + again, most if budget is None else min(most, budget)

    def semantic(self) -> dict[str, Any]:
        """The fields that decide what is made, as dotted key → JSON value.

        Fields left out (null) are left out here too: a later version's further options do not disown a run.
        """
        flat = flatten(self.model_dump(mode="json"))
        operational = {key for key in flat if key.startswith(OPERATIONAL) or key.endswith(".api_key_env")}
        return {key: value for key, value in flat.items() if key not in operational and value is not None}

    def differences(self, old: Mapping[str, Any]) -> list[str]:
        """Return how this config differs from that of a run, as one sentence part per field.

        A field that an older version did not have is no difference where it is left at its default.

        Args:
            old: :meth:`semantic` of the config that has started the run.
        """
        new = self.semantic()
        defaults = dict(
            _left_at_default(self.model_dump(mode="json"), self.model_dump(mode="json", exclude_defaults=True))
        )
        changes = []
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) == new.get(key):
                continue
            section = defaults.get(key)
            is_known = section is not None and any(name.startswith(section) for name in old)
            if key not in old and is_known:
                continue
            was = repr(old[key]) if key in old else "'(absent)'"
            now = repr(new[key]) if key in new else "'(absent)'"
            changes.append(f"{key} was {was} and is now {now}")
        return changes

    def digest(self) -> str:
        """SHA-256 of :meth:`semantic`, 64 hex digits."""
        return hashlib.sha256(json.dumps(self.semantic(), sort_keys=True).encode()).hexdigest()


_PLACEMENT = ("count", "num_gpus", "num_cpus", "batch_size")
_SAME_TO_ROUNDING = ("attention", "vae_slicing", "compile", "cpu_offload")  # as batch_size: the same mathematics
OPERATIONAL = (
    "name", "output.dir", "ray.", "rows_in_flight", "faults.", "scorers.allow_pickle",
    *(f"{side}.{field}" for side in ("generators", "scorers") for field in _PLACEMENT),
    *(f"generators.{field}" for field in _SAME_TO_ROUNDING),
)  # fmt: skip


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping from dotted key to scalar."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    if not items and not isinstance(value, dict | list | tuple):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _left_at_default(whole: Any, chosen: Any, section: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key of each value that is a field's default, and the section (with its dot) that lacks it.

    Args:
        whole: a config as plain values. chosen: the same without the fields that have their default.
        section: where these values stand, as the beginning of a dotted key.
    """
    items = whole.items() if isinstance(whole, dict) else enumerate(whole)
    for name, value in items:
        key = f"{section}{name}"
        if isinstance(chosen, dict) and name not in chosen:
            for leaf in flatten(value, key):
                yield leaf, section
        elif isinstance(value, dict | list):
            yield from _left_at_default(value, chosen[name], f"{key}.")
