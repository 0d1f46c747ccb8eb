"""What each column of a run means, in the words of its dataset card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from noisesmith.pipeline.acceptance import ACCEPTED
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.records import NOISE_GENERATOR
from noisesmith.pipeline.schema import RUN_SEED

_MEANINGS = {
    "id": "stable id of the row",
    "prompt": "what the image should show",
    "image": "the kept image: the one with the best score",
    "image_initial": "the first image, before any search round",
    "round_images": "the images that belong to scores; null for previews and probes, which are not kept",
    "score": "how well the kept image shows its prompt, 0 to 1",
    "score_initial": "that of the first image",
    "scores": "the score of every image made for the row, in the order they were made",
    "steps": "sampler steps of each of these images; fewer steps than the first image has mark a preview "
    "or a probe, which is never kept",
    "evaluations": "U-Net evaluations of each of these images: denoising steps, guidance included",
    "rounds": "search rounds after the first image; a row with a parent_id counts those of its parent too",
    "stop_reason": "why the search of this row ended",
    "atoms": "questions about the parts of the prompt, and P(answer) of each for the kept image, 0 to 1",
    "seed": "seed of the whole run, the same in every row: the noises of a row follow from it and from the row's id",
    "parent_id": "the row whose search this one continues, null where it began with a noise of its own",
    RUN_SEED: "seed of the whole run, the same in every row: the noises of a row follow from it and from the row's id",
    "noise": "the kept noise compared with N(0, I): mean, std, norm (‖z_T‖/√D), Kolmogorov-Smirnov distance",
    "noise_fp16": "the kept noise itself, float16 little-endian, in the shape that the recipe names; rounded where the "
    "first image is kept",
    "optimizer": "search method",
    "generator": "diffusion model",
    "generator_revision": "revision of the diffusion model",
    "scorer": "vision-language model that gave the scores",
    "scorer_revision": "revision of this model",
    "readout": "how the model's answer became a score",
    "guidance_scale": "weight of the prompt while sampling; 1 or less means no guidance",
    "scheduler": "sampler",
    "negative_prompt": "what guidance steers away from",
    "image_sha256": "SHA-256 of the file in `image`",
    "image_initial_sha256": "SHA-256 of the first image's file",
    "width": "pixels",
    "height": "pixels",
    "prompt_tokens_cut": "tokens at the end of the prompt that no text encoder of the diffusion model has read: for it "
    "the prompt is truncated, while the scoring model may read all of it",
}
_ACCEPTANCE = {
    "accepted": "whether the kept image reaches every threshold of the acceptance rule",
    "accept_reason": "the first threshold that it fails, null where it is accepted",
}
_RECIPE = (
    "the numbers that rebuild the kept image's noise: seed, rounds, step sizes γ and indices of the candidates, which "
    f"are draws of {NOISE_GENERATOR}"
)
_RECIPE_WITHOUT_CANDIDATES = "seed, shape, sampler steps and digest of the kept image's noise"


def columns_of_rows(columns: Iterable[str], config: RunConfig) -> list[tuple[str, str]]:
    """Every one of these columns with its meaning. Those that this version does not know are the corpus's own."""
    meanings = _MEANINGS | {"recipe": _RECIPE if config.optimizer.folds else _RECIPE_WITHOUT_CANDIDATES}
    if len(config.panel) > 1:
        meanings |= {"score": "combined score of the kept image, 0 to 1"}
        meanings |= {"scorer": "models that gave the scores", "scorer_revision": "their revisions"}
    if config.combine == "rank":
        meanings["image"] = "the kept image: the one with the best mean rank among the scorers"
    if config.output.images == "worst":
        meanings["round_images"] = "the image with the lowest score, in the place of its score; null for the others"
    for member in config.panel:
        meanings[f"score_{member.name}_initial"] = f"score that the scorer {member.name} gives the first image"
        meanings[f"score_{member.name}"] = f"score that the scorer {member.name} gives the kept image"
    for judge in config.judges:
        meanings |= _meanings_of_judge(judge.name)
    return [(name, meanings.get(name, "from the prompt list")) for name in columns]


def columns_of_side_tables(tables: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """Every column of the side tables with its meaning."""
    found: list[tuple[str, str]] = []
    for table, columns in tables.items():
        meanings = _ACCEPTANCE if table == ACCEPTED else _meanings_of_judge(table)
        found.extend((name, meanings.get(name, f"from the side table {table}")) for name in columns)
    return found


def is_own_column(name: str) -> bool:
    """Whether a column is one that noisesmith writes for every run, and not the corpus's or a scorer's."""
    return name in _MEANINGS or name == "recipe"


def _meanings_of_judge(name: str) -> dict[str, str]:
    return {
        f"judge_{name}_initial": f"score that the judge {name} gives the first image, null where it cannot tell",
        f"judge_{name}": f"score that the judge {name} gives the kept image",
    }
