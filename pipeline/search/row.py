"""The course of one row's search: what is made next, what is kept, when it stops, and the recipe that comes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.records import NoiseStats, Recipe, Result, Row


@dataclass(frozen=True)
class Turn:
    """One image of a row: its search round, the image whose noise it starts from, and its sampler steps.

    ``again`` marks a preview's noise made again at full T; it belongs to the preview's round.
    """

    round: int
    parent: int | None
    steps: int
    again: bool = False


@dataclass(frozen=True)
class Step:
    """What came of a turn: the (γ, index) of its move, its noise's statistics and digest, its batch and its cost.

    ``evaluations`` counts U-Net evaluations: one is one denoising step of one row, guidance included.
    """

    gamma: float
    index: int
    noise: NoiseStats
    digest: str
    batch_size: int
    evaluations: float


@dataclass
class RowSearch:
    """Image 0 is the first; every later round is one step of the optimizer from image ``base``.

    The best image at full T is kept. With previews the rounds are made at few sampler steps; when the search stops,
    the best of them are made again at full T, since no preview's score is ever reported as final.
    """

    row: Row
    config: RunConfig
    turns: list[Turn] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kept: int = 0
    base: int = 0
    stop_reason: str | None = None
    _held: list[int] = field(default_factory=list)  # the best previews so far, best first
    _again: list[int] = field(default_factory=list)  # those now being made again

    @property
    def rounds(self) -> int:
        """Search rounds taken: neither the first image nor a preview made again."""
        return max(0, sum(not turn.again for turn in self.turns) - 1)

    @property
    def finished(self) -> bool:
        return self.stop_reason is not None and not self._again

    @property
    def pending(self) -> int:
        """The image being made, or the one to make next: images are scored before the next is begun."""
        return len(self.scores)

    @property
    def best(self) -> float | None:
        """The score of the kept image."""
        return self.scores[self.kept] if self.scores else None

    @property
    def keep_above(self) -> float:
        """The score above which the image being made will be kept; a preview never is."""
        if not self._full(self.pending):
            return math.inf
        return -1.0 if self.best is None else self.best

    def begin(self) -> Turn:
        """What to make next; the same answer until it is scored."""
        if len(self.turns) == self.pending:
            self.turns.append(self._next())
        return self.turns[-1]

    def made(self, step: Step) -> None:
        """Record the image that the last turn made, in place of an earlier attempt at it."""
        self.steps[self.pending :] = [step]

    def scored(self, score: float) -> bool:
        """Record its score; true where it is now the kept image (the earliest of equals is kept)."""
        keep_above, image, turn = self.keep_above, self.pending, self.turns[-1]
        self.scores.append(score)
        kept = score > keep_above
        if kept:
            self.kept = image
        if turn.again:
            self.base = image if turn.parent == self.base else self.base
        elif self._moves_from_latest or score > self.scores[self.base]:
            self.base = image
        if turn.again:
            self._held.remove(self._again.pop(0))
            if (
                not self._again
                and self.stop_reason in ("perfect", "target")
                and not self._reached(self.scores[self.kept])
            ):
                self.stop_reason = self._why_stop()
        else:
            self._hold(image)
            self.stop_reason = self._why_stop()
            if self.stop_reason is not None:
                self._again = list(self._held)
        return kept

    def abandon(self) -> None:
        """End the search here, with the best image so far: the one being made is of no use and has no score."""
        self.turns[self.pending :], self.steps[self.pending :] = [], []
        self._again, self.stop_reason = [], "unusable"

    def needed(self) -> set[int]:
        """Images whose noise a later turn may start from, or whose noise is to be stored."""
        stored = {self.kept} if self.config.stores_noise else set()
        return {self.base, self.pending - 1, *stored, *self._held}

    def result(
        self, shape: tuple[int, ...], size: tuple[int, int], judges: dict[str, tuple[float | None, float | None]]
    ) -> Result:
        """The finished row without its image bytes and noise, which join it at the writer.

        Args:
            shape: latent shape of one row. size: (width, height) of the image in pixels.
        """
        config, kept = self.config, self.steps[self.kept]
        path = self._path(self.kept) if config.optimizer.folds else []
        recipe = Recipe(
            method=config.optimizer.method,
            seed=config.seed,
            shape=shape,
            rounds=tuple(self.turns[image].round for image in path),
            gammas=tuple(self.steps[image].gamma for image in path),
            indices=tuple(self.steps[image].index for image in path),
            candidates=getattr(config.optimizer, "candidates", 1),
            steps=self.turns[self.kept].steps,
            batch_size=kept.batch_size,
            digest=kept.digest,
        )
        return Result(
            row=self.row,
            image=b"",
            image_initial=None,
            width=size[0],
            height=size[1],
            scores=tuple(self.scores),
            steps=tuple(turn.steps for turn in self.turns),
            evaluations=tuple(step.evaluations for step in self.steps),
            score=self.scores[self.kept],
            rounds=self.rounds,
            stop_reason=self.stop_reason or "",
            judges=judges,
            seed=config.seed,
            recipe=recipe,
            noise=kept.noise,
        )

    @property
    def _moves_from_latest(self) -> bool:
        return getattr(self.config.optimizer, "move_from", "latest") == "latest"

    @property
    def _search_steps(self) -> int:
        preview = self.config.optimizer.preview
        return preview.steps if preview else self.config.generators.steps

    def _full(self, image: int) -> bool:
        return self.turns[image].steps == self.config.generators.steps

    def _next(self) -> Turn:
        if not self.scores:
            return Turn(0, None, self.config.generators.steps)
        if self._again:
            preview = self._again[0]
            return Turn(self.turns[preview].round, preview, self.config.generators.steps, again=True)
        return Turn(self.rounds + 1, self.base, self._search_steps)

    def _hold(self, image: int) -> None:
        """Hold a preview that is among the best."""
        preview = self.config.optimizer.preview
        if preview is not None and not self._full(image):
            self._held = sorted([*self._held, image], key=lambda held: -self.scores[held])[: preview.keep]

    def _reached(self, score: float) -> bool:
        target = self.config.optimizer.target_score
        return score >= (1.0 if target is None else target)

    def _why_stop(self) -> str | None:
        """``perfect``, ``target``, ``rounds``, ``budget``, ``patience``, or ``None`` while the search goes on."""
        config, best = self.config.optimizer, max(self.scores[self.kept], self.scores[-1])
        if best >= 1.0:
            return "perfect"
        if config.target_score is not None and best >= config.target_score:
            return "target"
        if self.rounds >= config.rounds:
            return "rounds"
        if config.unet_evaluations is not None:
            spent = sum(step.evaluations for step in self.steps)
            again = config.preview.keep * self.config.generators.steps if config.preview else 0
            if spent + self._search_steps + again > config.unet_evaluations:
                return "budget"
        if config.patience is not None:
            searched = [score for score, turn in zip(self.scores, self.turns, strict=True) if not turn.again]
            if len(searched) - 1 - searched.index(max(searched)) >= config.patience:
                return "patience"
        return None

    def _path(self, image: int) -> list[int]:
        """The images whose moves lead from the first noise to this image's, in order."""
        path: list[int] = []
        current: int | None = image
        while current is not None and self.turns[current].parent is not None:
            if not self.turns[current].again:
                path.append(current)
            current = self.turns[current].parent
        return path[::-1]


@dataclass(frozen=True)
class GenerateTask:
    """One row's place in a generator's batch; ``score`` is that of the image it starts from, absent in round 0."""

    prompt: str
    subjects: tuple[str, ...]
    key: NoiseKey
    steps: int
    score: float | None = None
    again: bool = False


@dataclass(frozen=True)
class ScoreTask:
    """One row's place in a scorer's batch: the score its image is kept above, and whether a gradient will be used."""

    prompt: str
    keep_above: float
    gradient: bool
