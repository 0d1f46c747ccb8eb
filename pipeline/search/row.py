"""One row's search: which image to make next, which is kept, when the search stops, and the recipe that results.

Nothing here knows where tensors live. ``T`` stands for one row's tensor: the tensor itself where everything runs in one
process, a reference to it where workers exchange tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.noise import NoiseKey
from noisesmith.pipeline.records import Result, Row
from noisesmith.pipeline.search.asking import atoms_of, edits_of, questions_of
from noisesmith.pipeline.search.combine import Combination, Opinion
from noisesmith.pipeline.search.recipe import recipe_of
from noisesmith.pipeline.search.stop import reaches_target, why_stop
from noisesmith.pipeline.search.tasks import GenerateTask, ImageRecord, NextImage, ScoreTask, Slope, Start

T = TypeVar("T")
JudgeScores = Mapping[str, tuple[float | None, float | None]]


class RowSearch(Generic[T]):
    """Image 0 is the first; every later round moves from the image ``base``. The best image at full steps is kept.

    A row with a parent begins with its parent's kept noise, and counts its parent's rounds on.
    With previews or probes, rounds take few sampler steps. When the search stops, the best of these short images are
    made at full steps, because no score of a short image is ever reported as final.

    Attributes:
        images: every image asked for, in order; ``records`` and ``scores`` are those of images made and scored.
        member_scores: every scorer's log s of these images, in the panel's order.
        kept: the image with the best score at full steps, or, at the end of a search that keeps by rank, the one with
            the best mean rank; ``base`` the one that the next round moves from.
        states, slopes: optimizer states and gradients by image, only as long as a later image may need them.
        questions: asked about the prompt's parts, where a scorer asks them; ``atoms`` has P(answer) of each, by image.
        latents: z_0 by image, of the current image and of those that may still be written.
        paused: where sampling has stopped, by image, of the current probe and of the best ones.
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
        self.paused: dict[int, T] = {}
        self._short = config.optimizer.short_rounds(config.generators.steps)
        self._best_short: list[int] = []  # best first
        self._to_rerender: list[int] = []
        self._combination = Combination(config)

    @property
    def rounds(self) -> int:
        """Search rounds taken, those of the parent included: neither a first image nor a rerendered one counts."""
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
        row, image = self.row, self.next_image()
        key = NoiseKey(self.config.seed, row.search_id, image.round)
        score = None if image.parent is None else self.scores[image.parent]
        begins = row.parent.recipe if row.parent and image.parent is None else None
        task = GenerateTask(
            row.prompt, row.subjects, key, image.steps, score, image.rerender, begins, resolution=row.resolution
        )
        if self.config.optimizer.probe is None:
            return task if image.parent is None else replace(task, scored_steps=self.images[image.parent].steps)
        return replace(
            task,
            steps=self.config.generators.steps,
            stop=self._stop_of(self.current),
            taken=image.taken,
            scored_at=None if image.parent is None else self._stop_of(image.parent),
        )

    def start(self) -> Start[T] | None:
        """What the next image starts from; ``None`` for the first image, which starts from a fresh noise."""
        image = self.next_image()
        parent = image.parent
        if parent is None:
            return None
        paused = self.paused[parent] if image.taken else None
        return Start(self.states[parent], self.slopes.get(parent, ()), paused)

    def generated(self, record: ImageRecord, state: T, latents: T, paused: T | None = None) -> None:
        """Record how the current image was made, in place of an earlier attempt at it.

        Args:
            latents: z_0.
            paused: where a probe has stopped.
        """
        if paused is not None:
            self.paused[self.current] = paused
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
        # A short image is never kept, and of equal scores the earliest is.
        if not self._is_short(image) and (best is None or score > best):
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

    def result(self, size: tuple[int, int], judges: JudgeScores) -> Result:
        """The finished row. Its picture bytes and its noise are added where they are at hand.

        Args:
            size: width and height in pixels of an image whose row asks for no size.
            judges: every judge's scores of the first and the kept image.
        """
        kept = self.records[self.kept]
        width, height = self.row.resolution or size
        return Result(
            row=self.row,
            image=b"",
            image_initial=None,
            width=width,
            height=height,
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
            recipe=recipe_of(self.config, self.images, self.records, self.kept, self.row.parent),
            noise=kept.noise,
            prompt_tokens_cut=kept.tokens_cut,
        )

    def _choose_next(self) -> NextImage:
        full_steps = self.config.generators.steps
        if not self.scores:
            return NextImage(round=self.row.earlier_rounds, parent=None, steps=full_steps)
        if self._to_rerender:
            best = self._to_rerender[0]
            return NextImage(self.images[best].round, best, full_steps, rerender=True, taken=self._stop_of(best) or 0)
        return NextImage(self.rounds + 1, self.base, self._short.steps if self._short else full_steps)

    def _is_short(self, image: int) -> bool:
        """Whether an image is a preview or a probe."""
        return self.images[image].steps != self.config.generators.steps

    def _stop_of(self, image: int) -> int | None:
        """The step after which an image has stopped, if it is a probe."""
        is_probe = self.config.optimizer.probe is not None and self._is_short(image)
        return self.images[image].steps if is_probe else None

    def _full_images(self) -> list[int]:
        """The images made so far at full steps."""
        return [image for image in range(len(self.scores)) if not self._is_short(image)]

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
            self._remember_short(image)
            self.stop_reason = self._why_stop()
            if self.stop_reason is not None:
                self._to_rerender = list(self._best_short)
            return
        self._best_short.remove(self._to_rerender.pop(0))
        # A short image only seemed to reach the target: the search goes on.
        seemed_done = not self._to_rerender and self.stop_reason in ("perfect", "target")
        if seemed_done and not reaches_target(self.config.optimizer, self.scores[self.kept]):
            self.stop_reason = self._why_stop()

    def _why_stop(self) -> str | None:
        spent = sum(record.evaluations for record in self.records)
        searched = [score for score, image in zip(self.scores, self.images, strict=True) if not image.rerender]
        best = max(self.scores[self.kept], self.scores[-1])  # the latest may be short, which is not kept
        return why_stop(self.config, self.rounds, spent, searched, best)

    def _remember_short(self, image: int) -> None:
        if self._short is None or not self._is_short(image):
            return
        best_first = sorted([*self._best_short, image], key=lambda held: -self.scores[held])
        self._best_short = best_first[: self._short.keep]

    def _forget(self) -> None:
        """Drop what no later image starts from and what is not to be written."""
        may_be_kept = {self.kept}
        if self._combination.by_rank and not self.finished:
            may_be_kept.update(self._full_images())
        needed = {self.base, *self._best_short}
        self.paused = {image: paused for image, paused in self.paused.items() if image in self._best_short}
        if self.config.stores_noise:
            needed |= may_be_kept
        self.states = {image: state for image, state in self.states.items() if image in needed}
        self.slopes = {image: slopes for image, slopes in self.slopes.items() if image == self.base}
        written = {0, *may_be_kept, *self.listed_images()}
        self.latents = {image: latents for image, latents in self.latents.items() if image in written}
