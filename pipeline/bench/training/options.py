"""What a comparison of trainings is asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields

from noisesmith.pipeline.bench.kinds import Kind
from noisesmith.pipeline.errors import UserError

TRAINING = Kind(
    name="training",
    reference="untouched",
    option="",
    sets=("seed", "name", "output.dir", "output.image_initial"),
    instead="--prompts, --seeds or --out",
    config="training.yaml",
)


@dataclass(frozen=True)
class TrainingOptions:
    """The numbers of a comparison of trainings; all arms share them.

    Attributes:
        held_out: prompts that are evaluated and never trained on.
        images: evaluated per prompt.
        steps: optimizer steps of every training.
        batch_size: pictures per step; a pair has two.
        pictures: the most different pictures per arm; as many as every arm has when absent.
        learning_rate, dpo_learning_rate: of AdamW, for fine-tuning and for pairs.
        beta: of Diffusion-DPO, as diffusers' script has it: how strongly pairs may move the model.
    """

    held_out: int = 100
    images: int = 4
    steps: int = 200
    batch_size: int = 32
    pictures: int | None = None
    learning_rate: float = 1e-5
    dpo_learning_rate: float = 2e-5
    beta: float = 500.0

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            UserError: names the option.
        """
        least = {"held_out": 2, "images": 2, "steps": 1, "batch_size": 2, "pictures": 2}
        for field in fields(self):
            value = getattr(self, field.name)
            option = "--" + field.name.replace("_", "-")
            if field.name in least:
                if value is not None and value < least[field.name]:
                    raise UserError(f"{option}: must be at least {least[field.name]}, but it is {value}")
            elif not 0 < value < float("inf"):
                raise UserError(f"{option}: must be a number above 0, but it is {value:g}")
        for option, count in (("--batch-size", self.batch_size), ("--pictures", self.pictures)):
            if count is not None and count % 2:
                raise UserError(f"{option}: must be even, since a pair has two pictures, but it is {count}")
