"""The public Python API: searches in this process, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import noisesmith as ns
from noisesmith.pipeline.noise import digest, replay

PROMPTS = ["a cat above a red car", "a dog"]


def config(tiny_sd: Path, tiny_llava: Path, **sections: Any) -> ns.RunConfig:
    plain: dict[str, Any] = {
        "generators": {"model": str(tiny_sd), "steps": 2, "batch_size": 2},
        "scorers": {"model": str(tiny_llava)},
        "optimizer": {"rounds": 2, "candidates": 4},
    }
    return ns.RunConfig.model_validate(plain | sections)


@pytest.fixture(scope="module")
def searcher(tiny_sd: Path, tiny_llava: Path) -> Iterator[ns.Searcher]:
    with ns.load(config(tiny_sd, tiny_llava), device="cpu") as loaded:
        yield loaded


def test_results_come_in_order_with_images_scores_and_recipes(searcher: ns.Searcher) -> None:
    results = searcher.search(PROMPTS, progress=False)
    assert [result.prompt for result in results] == PROMPTS
    for result in results:
        assert result.score == max(result.scores) >= result.score_initial == result.scores[0]
        assert result.image.mode == "RGB"
        assert result.image_initial is not None
        assert result.image.size == result.image_initial.size
        assert digest(replay(result.recipe, result.result.row.id)) == result.recipe.digest
        assert result.stop_reason == "rounds"


def test_the_same_call_gives_the_same_results_again(searcher: ns.Searcher) -> None:
    first, second = (searcher.search(PROMPTS, progress=False) for _ in range(2))
    assert [result.result for result in first] == [result.result for result in second]


def test_the_batch_changes_no_candidate(searcher: ns.Searcher, tiny_sd: Path, tiny_llava: Path) -> None:
    alone = config(tiny_sd, tiny_llava, generators={"model": str(tiny_sd), "steps": 2, "batch_size": 1})
    for together, single in zip(
        searcher.search(PROMPTS, progress=False), ns.search(PROMPTS, alone, device="cpu", progress=False), strict=True
    ):
        assert together.scores == pytest.approx(single.scores, abs=1e-4)


def test_an_object_needs_no_model_of_the_config(tiny_sd: Path) -> None:
    """Nor is it read in the way of that model: contrastive would need another method."""
    settings = config(tiny_sd, tiny_sd, scorers={"model": "not/here", "readout": "contrastive"})
    (found,) = ns.search(PROMPTS[:1], settings, scorer=Brightness(), device="cpu", progress=False)
    assert found.score == max(found.scores)


class Brightness:
    """A scorer of the user's own."""

    id = "brightness"
    revision = "1"

    def log_scores(self, prompts: list[str], images: torch.Tensor) -> torch.Tensor:
        assert len(prompts) == len(images)
        return images.mean(dim=(1, 2, 3)).clamp(1e-6, 1).log()


class Blackbox(Brightness):
    has_gradient = False

    def log_scores(self, prompts: list[str], images: torch.Tensor) -> torch.Tensor:
        return super().log_scores(prompts, images.detach())


def test_an_own_scorer_steers_the_search(tiny_sd: Path, tiny_llava: Path) -> None:
    (result,) = ns.search(["a cat"], config(tiny_sd, tiny_llava), scorer=Brightness(), device="cpu", progress=False)
    assert result.score == pytest.approx(np.asarray(result.image).mean() / 255, abs=2e-3)


def test_a_scorer_without_gradient_is_refused_by_gradient_methods_alone(tiny_sd: Path, tiny_llava: Path) -> None:
    with pytest.raises(ns.UserError, match=r"optimizer\.method: noise_diffusion needs the score's gradient"):
        ns.load(config(tiny_sd, tiny_llava), scorer=Blackbox(), device="cpu")
    free = config(tiny_sd, tiny_llava, optimizer={"method": "random_sampling", "rounds": 1})
    (result,) = ns.search(["a cat"], free, scorer=Blackbox(), device="cpu", progress=False)
    assert len(result.scores) == 2


def test_a_scorer_that_breaks_the_protocol_is_named(tiny_sd: Path, tiny_llava: Path) -> None:
    nothing: Any = object()
    with pytest.raises(ns.UserError, match="scorer: the given object has no id"):
        ns.load(config(tiny_sd, tiny_llava), scorer=nothing, device="cpu")


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("a cat", "prompts: is one text"),
        (["a cat", ""], "prompts: number 1: the prompt is empty"),
        (["a cat", 3], "prompts: number 1: the prompt is 3, but must be text"),
        (["x" * 2001], "prompts: number 0: the prompt has 2001 characters"),
    ],
)
def test_prompts_that_are_no_prompts_are_refused(searcher: ns.Searcher, prompts: Any, message: str) -> None:
    with pytest.raises(ns.UserError, match=message):
        searcher.search(prompts, progress=False)


def test_a_closed_searcher_says_so(tiny_sd: Path, tiny_llava: Path) -> None:
    searcher = ns.load(config(tiny_sd, tiny_llava), device="cpu")
    searcher.close()
    with pytest.raises(ns.UserError, match="closed"):
        searcher.search(["a cat"])


def test_a_missing_model_is_one_sentence(tiny_llava: Path) -> None:
    with pytest.raises(ns.UserError, match=r"generators\.model: no folder"):
        ns.load(config(Path("nowhere at all"), tiny_llava))


def test_importing_the_package_loads_no_heavy_library() -> None:
    script = "import sys, noisesmith; print(sorted({'torch', 'diffusers', 'transformers', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_documented() -> None:
    for name in ns.__all__:
        thing = getattr(ns, name)
        assert name == "__version__" or thing.__doc__
