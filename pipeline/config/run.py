"""The config of a whole run: where its prompts come from, what makes and judges its images, what is written.

Fields that decide *what* is made (models, method, seed, corpus, shard size) enter :meth:`RunConfig.digest`. Those that
only decide *where* and *how fast* it is made (:data:`OPERATIONAL`) may change when a run is resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from noisesmith.pipeline.config.accept import AcceptConfig
from noisesmith.pipeline.config.cluster import FaultsConfig, PlacementConfig, PlacementField, RayConfig, WritersConfig
from noisesmith.pipeline.config.corpus import CorpusConfig
from noisesmith.pipeline.config.flat import flatten, left_at_default, with_versions, without_positions
from noisesmith.pipeline.config.models import GeneratorConfig, JudgeConfig, ScorerConfig
from noisesmith.pipeline.config.optimizers import NoiseDiffusionConfig, OptimizerConfig
from noisesmith.pipeline.config.panel import MemberConfig, Scorers, check_members, groups_of
from noisesmith.pipeline.config.partition import PartitionField
from noisesmith.pipeline.config.section import Section
from noisesmith.pipeline.config.short_rounds import ShortRounds, check_short_rounds
from noisesmith.pipeline.storage.paths import is_remote, to_path


class OutputConfig(Section):
    """What is written, and where."""

    dir: str | None = Field(
        None, description="run directory, or its URL in a store such as s3://bucket/my-run; runs/NAME when absent"
    )
    formats: tuple[Literal["parquet", "webdataset"], ...] = ("parquet", "webdataset")
    rows_per_shard: int = Field(1000, ge=1, le=1_000_000)
    image_initial: bool = Field(True, description="keep the first image next to the best one")
    tar_image_initial: bool | None = Field(None, description="keep it in the tars of webdataset too")
    images: Literal["ends", "worst", "all"] | None = Field(
        None,
        description="further images to keep, in Parquet files: none (ends, when absent), the one with the lowest score "
        "(worst), or every image at full sampler steps (all)",
    )
    noise: bool = Field(True, description="store the noise itself (fp16) where no recipe can rebuild it")

    @field_validator("dir")
    @classmethod
    def _usable_location(cls, value: str | None) -> str | None:
        to_path(value or "")  # raises for a URL that cannot be used
        return value

    @field_validator("formats")
    @classmethod
    def _formats_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("list parquet, webdataset or both, each once")
        return value

    @field_validator("tar_image_initial", "images")
    @classmethod
    def _default_is_absent(cls, value: bool | str | None) -> bool | str | None:
        return None if value in (False, "ends") else value  # a field that is null changes no digest

    @model_validator(mode="after")
    def _first_images_in_tars_exist(self) -> OutputConfig:
        if self.tar_image_initial and not (self.image_initial and "webdataset" in self.formats):
            raise ValueError("tar_image_initial: needs image_initial: true and webdataset among the formats")
        return self

    @model_validator(mode="after")
    def _further_images_have_a_place(self) -> OutputConfig:
        if self.images and "parquet" not in self.formats:
            raise ValueError(f"images: {self.images} needs parquet among the formats, since tars hold no such images")
        return self

    @property
    def stores_first(self) -> bool:
        """Whether a new run has a format that holds first images."""
        return self.image_initial and ("parquet" in self.formats or bool(self.tar_image_initial))


class RunConfig(Section):
    """Everything that decides a run. Absent sections take their defaults."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")
    seed: int = Field(0, ge=0, lt=2**63)
    corpus: tuple[CorpusConfig, ...] = Field((), description="required for a run; a search in Python takes prompts")
    generators: GeneratorConfig = GeneratorConfig()
    scorers: Scorers = ScorerConfig()
    combine: Literal["mean", "min", "rank"] | None = Field(
        None,
        description="how several scorers become one: the weighted geometric mean (when absent), the lowest score, or "
        "the mean while searching and the best mean rank at the end",
    )
    judges: tuple[JudgeConfig, ...] = ()
    optimizer: OptimizerConfig = NoiseDiffusionConfig()
    output: OutputConfig = OutputConfig()
    partition: PartitionField | None = Field(
        None,
        description="i/n makes the shards of the i-th of n runs, which noisesmith merge joins; all when absent",
    )
    writers: WritersConfig = WritersConfig()
    ray: RayConfig = RayConfig()
    placement: PlacementField = PlacementConfig()
    rows_in_flight: int | None = Field(None, ge=1, description="rows searched at once; derived when absent")
    max_prompt_chars: int = Field(2000, ge=1, description="a longer prompt is refused")
    faults: FaultsConfig = FaultsConfig()
    accept: AcceptConfig | None = Field(None, description="when a kept image counts as accepted; can be given later")

    @field_validator("corpus", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value

    @field_validator("optimizer", mode="before")
    @classmethod
    def _paper_method_by_default(cls, value: object) -> object:
        return {"method": "noise_diffusion", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _judges_named_once(self) -> RunConfig:
        names = [judge.name for judge in self.judges]
        if len(set(names)) != len(names):
            raise ValueError("judges: every judge needs its own name")
        return self

    @model_validator(mode="after")
    def _scorers_fit_each_other(self) -> RunConfig:
        check_members(self.scorers)
        return self

    @model_validator(mode="after")
    def _short_rounds_are_shorter(self) -> RunConfig:
        optimizer = self.optimizer
        steps = self.generators.steps
        least = steps
        what = "the first image takes"
        check_short_rounds(optimizer.preview, optimizer.probe, optimizer.method, self.generators)
        short = optimizer.short_rounds(steps)
        if short:
            least += short.more * short.keep
            made = "previews rendered again" if optimizer.preview else "probes that are finished"
            what = f"the first image and the {made} take"
        budget = self.optimizer.unet_evaluations
        if budget is not None and budget < least:
            raise ValueError(f"optimizer.unet_evaluations: {budget} is below the {least} that {what}; raise it")
        return self

    @model_validator(mode="after")
    def _buckets_have_rows(self) -> RunConfig:
        if self.generators.buckets and not any(section.resolution for section in self.corpus):
            raise ValueError(
                "generators.buckets: no row asks for a size; name its columns with corpus.resolution, or give "
                "generators.width and generators.height for all rows"
            )
        return self

    @model_validator(mode="after")
    def _attention_is_not_compiled(self) -> RunConfig:
        """Refuse what gives wrong images.

        Measured with torch 2.13: with a compiled U-Net the losses are right, but their gradient is wrong by more than
        half its length.
        """
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
    def in_store(self) -> bool:
        """Whether the run directory is in an object store, which every node of a cluster can reach."""
        return is_remote(self.run_dir)

    @property
    def groups(self) -> tuple[tuple[MemberConfig, ...], ...]:
        """The scorers by the actors that hold them; the first of a group places its actors."""
        return groups_of(self.scorers)

    @property
    def panel(self) -> tuple[MemberConfig, ...]:
        """All scorers, in the order of their groups; one that is not in a list is called ``scorer``."""
        return tuple(member for group in self.groups for member in group)

    @property
    def asks_questions(self) -> bool:
        """Whether a scorer asks questions about the parts of the prompts."""
        return any(member.asks == "questions" for member in self.panel)

    @property
    def stores_noise(self) -> bool:
        """Whether rows store their noise, since no recipe rebuilds it."""
        return self.output.noise and not self.optimizer.folds

    @property
    def replayable(self) -> bool:
        """Whether a row's noise can be restored, from a recipe or from the stored noise."""
        return self.output.noise or self.optimizer.folds

    def most_per_row(self) -> tuple[int, int]:
        """Return the most images, and U-Net evaluations of the plain sampler, that one row can take."""
        method = self.optimizer
        steps = self.generators.steps
        budget = method.unet_evaluations
        short = method.short_rounds(steps) or ShortRounds(steps, keep=0, more=0)
        rounds = method.rounds
        if budget is not None:
            affordable = (budget - steps - short.more * short.keep) // short.steps
            rounds = min(rounds, affordable)
        again = min(short.keep, rounds)  # previews and probes made again at full steps
        if short.keep and method.target_score is not None:
            again = rounds  # any of them that reaches the target is made again at once
        images = 1 + rounds + again
        evaluations = steps + short.more * again + short.steps * rounds
        if budget is not None:
            evaluations = min(evaluations, budget)
        return images, evaluations

    def semantic(self) -> dict[str, object]:
        """Return the fields that decide what is made, as dotted key → JSON value.

        Fields that are null are left out, so that further optional fields of a later version change no digest.
        """
        fields = {}
        for key, value in flatten(self.model_dump(mode="json")).items():
            is_operational = without_positions(key).startswith(OPERATIONAL) or key.endswith(".api_key_env")
            if value is not None and not is_operational:
                fields[key] = value
        return fields

    def differences(self, old: Mapping[str, object]) -> list[str]:
        """Return how this config differs from that of a run, as one sentence part per field.

        A field that an older version did not have is no difference where it is left at its default. Nor is the name of
        a built-in model of an older version, where the run started while that version was the newest.

        Args:
            old: :meth:`semantic` of the config that has started the run.
        """
        new = self.semantic()
        old = with_versions(old, new)
        whole = self.model_dump(mode="json")
        chosen = self.model_dump(mode="json", exclude_defaults=True)
        defaults = dict(left_at_default(whole, chosen))
        changes = []
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) == new.get(key):
                continue
            if key not in old and key in defaults:
                # A section that the old run did not have has been chosen now, and is a difference with all its fields.
                section = defaults[key]
                if any(name.startswith(section) for name in old):
                    continue
            was = repr(old.get(key, "(absent)"))
            now = repr(new.get(key, "(absent)"))
            changes.append(f"{key} was {was} and is now {now}")
        return changes

    def digest(self) -> str:
        """Return the SHA-256 of :meth:`semantic` as 64 hex digits."""
        return hashlib.sha256(json.dumps(self.semantic(), sort_keys=True).encode()).hexdigest()


_PLACEMENT = ("count", "num_gpus", "num_cpus", "batch_size")
# Like batch_size, these compute the same up to rounding.
_SAME_TO_ROUNDING = ("attention", "vae_slicing", "vae_checkpointing", "compile", "cpu_offload")
OPERATIONAL = (
    "name", "output.dir", "partition", "writers.", "ray.", "placement.", "rows_in_flight", "faults.",
    "scorers.allow_pickle", "scorers.allow_code", "scorers.shares",
    *(f"{side}.{field}" for side in ("generators", "scorers") for field in _PLACEMENT),
    *(f"generators.{field}" for field in _SAME_TO_ROUNDING),
    "generators.max_prompt_tokens",  # it refuses a run, and changes none
    "corpus.language",  # stands in the dataset card alone
    "accept.",  # it is evaluated after the rows, in a side table
)  # fmt: skip
