"""One row's search: which image to make next, which is kept, when the search stops, and the recipe that results.

Nothing here knows where tensors live. ``T`` stands for one row's tensor: the tensor itself where everything runs in one
process, a reference to it where workers exchange tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.records import Result, Row
from noisesmith.pipeline.search.asking import atoms_of, edits_of, questions_of
from noisesmith.pipeline.search.combine import Combination, Opinion
from noisesmith.pipeline.search.recipe import recipe_of
from noisesmith.pipeline.search.tasks import GenerateTask, ImageRecord, NextImage, ScoreTask, Slope, Start

T = TypeVar("T")
JudgeScores = Mapping[str, tuple[float | None, float | None]]


class RowSearch(Generic[T]):
    """Image 0 is the first; every later round moves from the image ``base``. The best image at full steps is kept.

    A row with a parent begins with its parent's kept noise, and counts its parent's rounds on.
    With previews, rounds are made at few sampler steps. When the search stops, the best previews are rendered again at
    full steps, because no preview's score is ever reported as final.

    Attributes:
        images: every image asked for, in order; ``records`` and ``scores`` are those of images made and scored.
        member_scores: every scorer's log s of these images, in the panel's order.
        kept: the image with the best score at full steps, or, at the end of a search that keeps by rank, the one with
            the best mean rank; ``base`` the one that the next round moves from.
        states, slopes: optimizer states and gradients by image, only as long as a later image may need them.
        questions: asked about the prompt's parts, where a scorer asks them; ``atoms`` has P(answer) of each, by image.
        latents: z_0 by image, of the current image and of those that may still be written.
    """

    def __init__(self, row: Row, config: RunConfig) -> None:
        self.row = row
        self.config = config
        self.images: list[NextImage] = []
        self.records: list[ImageRecord] = []
        self.scores: list[float] = []
        self.member_scores: list[tuple[float, ...]] = []
        self.questions = questions_of(row, config)
        self.edits = edits_of(row, config)
        self.atoms: list[tuple[float, ...]] = []
        self.kept = 0
        self.base = 0
        self.stop_reason: str | None = None
        self.states: dict[int, T] = {}
        self.slopes: dict[int, tuple[Slope[T], ...]] = {}
        self.latents: dict[int, T] = {}
        self._best_previews: list[int] = []  # best first
        self._to_rerender: list[int] = []
        self._combination = Combination(config)

    @property
    def rounds(self) -> int:
        """Search rounds taken, those of the parent included: neither a first image nor a rerendered preview counts."""
        for image in reversed(self.images):
            if not image.rerender:
                return image.round
        return self.row.earlier_rounds

    @property
    def finished(self) -> bool:
        return self.stop_reason is not None and not self._to_rerender

    @property
    def current(self) -> int:
        """The image being made, or the next one to make: an image is scored before the next one starts."""
        return len(self.scores)

    @property
    def current_latents(self) -> T:
        """z_0 of the image that was made and is to be scored."""
        return self.latents[self.current]

    @property
    def best_score(self) -> float | None:
        """The score of the kept image; ``None`` before the first."""
        return self.scores[self.kept] if self.scores else None

    def listed_images(self) -> list[int]:
        """The images that the run keeps by number (``output.images``); the first and the kept one may be among them."""
        full = self._full_images()
        if self.config.output.images == "worst":
            return [min(full, key=lambda image: self.scores[image])]
        return full if self.config.output.images == "all" else []

    def written_images(self) -> list[int]:
        """The first image, the kept one, then the others to write, of a row that has at least one image."""
        return [0, self.kept, *(image for image in self.listed_images() if image not in (0, self.kept))]

    def written_latents(self) -> list[T]:
        """z_0 of each of :meth:`written_images`."""
        return [self.latents[image] for image in self.written_images()]

    def next_image(self) -> NextImage:
        """What to make next; the same answer until it is scored."""
        if len(self.images) == self.current:
            self.images.append(self._choose_next())
        return self.images[-1]

    def generate_task(self) -> GenerateTask:
        """What a generator needs to know to make the next image."""
        image = self.next_image()
        key = NoiseKey(self.config.seed, self.row.search_id, image.round)
        score = None if image.parent is None else self.scores[image.parent]
        begins = self.row.parent.recipe if self.row.parent and image.parent is None else None
        return GenerateTask(self.row.prompt, self.row.subjects, key, image.steps, score, image.rerender, begins)

    def start(self) -> Start[T] | None:
        """What the next image starts from; ``None`` for the first image, which starts from a fresh noise."""
        parent = self.next_image().parent
        return None if parent is None else Start(self.states[parent], self.slopes.get(parent, ()))

    def generated(self, record: ImageRecord, state: T, latents: T) -> None:
        """Record how the current image was made, in place of an earlier attempt at it.

        Args:
            latents: z_0.
        """
        self.records[self.current :] = [record]
        self.states[self.current] = state
        self.latents[self.current] = latents

    def score_task(self) -> ScoreTask:
        """What a scorer needs to know of the image just made. After the last round no gradient is used."""
        is_last = self.rounds >= self.config.optimizer.rounds
        gradient = self.config.optimizer.needs_gradient and not is_last
        return ScoreTask(self.row.prompt, gradient, self.questions, self.edits)

    def scored(self, opinions: Sequence[Opinion[T]]) -> None:
        """Record the current image's scores, decide whether it is kept, and whether the search goes on.

        Args:
            opinions: one of each group of scorers, with a gradient where the score task asked for it.
        """
        image = self.current
        best = self.best_score
        log_scores = tuple(log_score for opinion in opinions for log_score in opinion.log_scores)
        score = self._combination.score(log_scores)
        self.scores.append(score)
        self.member_scores.append(log_scores)
        self.atoms.append(self._combination.atoms(opinions))
        # A preview is never kept, and of equal scores the earliest is.
        if not self._is_preview(image) and (best is None or score > best):
            self.kept = image
        self.slopes[image] = self._combination.slopes(opinions)
        self._choose_base(image)
        self._choose_stop(image)
        self._keep_by_rank()
        self._forget()

    def abandon(self) -> None:
        """End the search with the best image so far: the current one is unusable and has no score."""
        del self.images[self.current :]
        del self.records[self.current :]
        self.latents.pop(self.current, None)
        self._to_rerender = []
        self.stop_reason = "unusable"
        self._keep_by_rank()

    def result(self, shape: tuple[int, ...], size: tuple[int, int], judges: JudgeScores) -> Result:
        """The finished row. Its picture bytes and its noise are added where they are at hand.

        Args:
            shape: latent shape of one row, ``(C, h, w)``.
            size: (width, height) of the image in pixels.
            judges: every judge's scores of the first and the kept image.
        """
        kept = self.records[self.kept]
        return Result(
            row=self.row,
            image=b"",
            image_initial=None,
            width=size[0],
            height=size[1],
            scores=tuple(self.scores),
            steps=tuple(image.steps for image in self.images),
            evaluations=tuple(record.evaluations for record in self.records),
            score=self.scores[self.kept],
            rounds=self.rounds,
            stop_reason=self.stop_reason or "",
            members=self._combination.by_member(self.member_scores[0], self.member_scores[self.kept]),
            atoms=atoms_of(self.questions, self.atoms[self.kept]),
            judges=dict(judges),
            seed=self.config.seed,
            recipe=recipe_of(self.config, self.images, self.records, self.kept, shape, self.row.parent),
            noise=kept.noise,
            prompt_tokens_cut=kept.tokens_cut,
        )

    def _choose_next(self) -> NextImage:
        full_steps = self.config.generators.steps
        if not self.scores:
            return NextImage(round=self.row.earlier_rounds, parent=None, steps=full_steps)
        if self._to_rerender:
            preview = self._to_rerender[0]
            return NextImage(self.images[preview].round, preview, full_steps, rerender=True)
        return NextImage(self.rounds + 1, self.base, self._round_steps())

    def _round_steps(self) -> int:
        preview = self.config.optimizer.preview
        return preview.steps if preview else self.config.generators.steps

    def _is_preview(self, image: int) -> bool:
        return self.images[image].steps != self.config.generators.steps

    def _full_images(self) -> list[int]:
        """The images made so far that are no previews."""
        return [image for image in range(len(self.scores)) if not self._is_preview(image)]

    def _keep_by_rank(self) -> None:
        """At the end of a search that keeps by rank: the ranks of the images are known only then."""
        if self.finished and self._combination.by_rank:
            ranked = {image: self.member_scores[image] for image in self._full_images()}
            self.kept = self._combination.best_by_rank(ranked)

    def _choose_base(self, image: int) -> None:
        """Let the next round move from this image, or stay at an earlier one."""
        request = self.images[image]
        if request.rerender:
            if request.parent == self.base:  # the same noise, now scored at full steps
                self.base = image
            return
        moves_from_latest = getattr(self.config.optimizer, "move_from", "latest") == "latest"
        if moves_from_latest or self.scores[image] > self.scores[self.base]:
            self.base = image

    def _choose_stop(self, image: int) -> None:
        if not self.images[image].rerender:
            self._remember_preview(image)
            self.stop_reason = self._why_stop()
            if self.stop_reason is not None:
                self._to_rerender = list(self._best_previews)
            return
        self._best_previews.remove(self._to_rerender.pop(0))
        # A preview only seemed to reach the target: the search goes on.
        seemed_done = not self._to_rerender and self.stop_reason in ("perfect", "target")
        if seemed_done and not self._reaches_target(self.scores[self.kept]):
            self.stop_reason = self._why_stop()

    def _remember_preview(self, image: int) -> None:
        preview = self.config.optimizer.preview
        if preview is None or not self._is_preview(image):
            return
        best_first = sorted([*self._best_previews, image], key=lambda held: -self.scores[held])
        self._best_previews = best_first[: preview.keep]

    def _reaches_target(self, score: float) -> bool:
        target = self.config.optimizer.target_score
        return score >= (1.0 if target is None else target)

    def _why_stop(self) -> str | None:
        """``perfect``, ``target``, ``rounds``, ``budget``, ``patience``, or ``None`` while the search goes on."""
        config = self.config.optimizer
        best = max(self.scores[self.kept], self.scores[-1])  # the latest may be a preview, which is not kept
        if best >= 1.0:
            return "perfect"
        if config.target_score is not None and best >= config.target_score:
            return "target"
        if self.rounds >= config.rounds:
            return "rounds"
        if self._exceeds_budget():
            return "budget"
        if config.patience is not None and self._rounds_without_gain() >= config.patience:
            return "patience"
        return None

    def _exceeds_budget(self) -> bool:
        """Whether another round, and rendering the best previews again, would exceed ``unet_evaluations``."""
        config = self.config.optimizer
        if config.unet_evaluations is None:
            return False
        spent = sum(record.evaluations for record in self.records)
        rerendering = config.preview.keep * self.config.generators.steps if config.preview else 0
        return spent + self._round_steps() + rerendering > config.unet_evaluations

    def _rounds_without_gain(self) -> int:
        searched = [score for score, image in zip(self.scores, self.images, strict=True) if not image.rerender]
        return len(searched) - 1 - searched.index(max(searched))

    def _forget(self) -> None:
        """Drop what no later image starts from and what is not to be written."""
        may_be_kept = {self.kept}
        if self._combination.by_rank and not self.finished:
            may_be_kept.update(self._full_images())
        needed = {self.base, *self._best_previews}
        if self.config.stores_noise:
            needed |= may_be_kept
        self.states = {image: state for image, state in self.states.items() if image in needed}
        self.slopes = {image: slopes for image, slopes in self.slopes.items() if image == self.base}
        written = {0, *may_be_kept, *self.listed_images()}
        self.latents = {image: latents for image, latents in self.latents.items() if image in written}
