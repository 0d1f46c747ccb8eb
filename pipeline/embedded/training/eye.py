"""Images labelled by eye, which say how far judges and scorers can be trusted.

``python -m noisesmith.pipeline.embedded.training.eye collect`` makes the images: first and kept images of searches, and
images without a search, shuffled. ``sheets`` draws them without saying which is which, to be labelled by looking. The
labels are one line per image in ``labelled/labels.jsonl``: 1 where the image shows what its prompt says. The rule:
every object can be recognised without reading the prompt, has its colour, and stands where the prompt says. So a smudge
is no elephant, and a plain disc is no clock.

The images are split by prompt into a development half, on which thresholds may be chosen, and a held-out half, on which
figures are reported.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor

import noisesmith as ns
from noisesmith.pipeline.embedded.grammar import COLOURS, NOUNS, THINGS, Phrase, ScenePrompt, prompts

FOLDER = Path(__file__).with_name("labelled")
SEED = 15_000  # of prompts and noises; nothing is trained or searched with it elsewhere
SEARCHED = {"complex": 112, "simple": 32}  # prompts searched, by grammar
ROUNDS = 10
COUNT = 400
BATCH = 16
PER_SHEET = 20


@dataclass(frozen=True)
class Seen:
    """One image to label: its prompt, and where it comes from (``first``, ``kept`` or ``random``)."""

    prompt: str
    origin: str

    @property
    def held_out(self) -> bool:
        """Whether it belongs to the half on which figures are reported: all images of a prompt do, or none."""
        return hashlib.sha256(self.prompt.encode()).digest()[0] % 2 == 1


def collect(folder: Path = FOLDER, seed: int = SEED) -> None:
    """Make :data:`COUNT` images with the built-in models, and write them with their prompts in random order."""
    found: list[tuple[Seen, bytes]] = []
    with ns.load(_config(seed, ROUNDS)) as searcher:
        for grammar, count in SEARCHED.items():
            asked = [str(prompt) for prompt in itertools.islice(prompts(grammar, seed), count)]
            for start in range(0, count, BATCH):
                for result in searcher.search(asked[start : start + BATCH]):
                    found += _first_and_kept(result)
                sys.stdout.write(f"{len(found)} images\n")
                sys.stdout.flush()
    singles = [str(ScenePrompt(phrase)) for phrase in itertools.islice(_singles(seed), COUNT - len(found))]
    for result in ns.search(singles, _config(seed + 1, 0)):
        found.append((Seen(result.prompt, "random"), result.result.image))
    random.Random(seed).shuffle(found)
    images = torch.stack([_pixels(png) for _, png in found])
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"images": images}, folder / "images.safetensors", {"seed": str(seed)})
    lines = [json.dumps(asdict(seen)) for seen, _ in found]
    (folder / "images.jsonl").write_text("\n".join(lines) + "\n")


def _first_and_kept(result: ns.SearchResult) -> list[tuple[Seen, bytes]]:
    """Both images of a search, or one where the first was kept."""
    first = result.result.image_initial
    assert first is not None, "output.image_initial is on by default"
    images = [(Seen(result.prompt, "first"), first)]
    if result.result.image != first:
        images.append((Seen(result.prompt, "kept"), result.result.image))
    return images


def _config(seed: int, rounds: int) -> ns.RunConfig:
    """Searches without guidance, as ``configs/embedded-complex.yaml`` is."""
    generators = {"model": "embedded", "steps": 20, "guidance_scale": 1.0, "batch_size": BATCH}
    return ns.RunConfig(
        seed=seed,
        generators=generators,
        scorers={"model": "embedded"},
        optimizer={"method": "noise_diffusion", "rounds": rounds},
    )


def _singles(seed: int) -> Iterator[Phrase]:
    """One object alone, every noun and every colour in turn."""
    rng = random.Random(f"singles/{seed}")
    for number in itertools.count():
        noun = NOUNS[number % len(NOUNS)]
        yield Phrase(noun, COLOURS[rng.randrange(len(COLOURS))] if noun in THINGS else None)


def read_images(folder: Path = FOLDER) -> tuple[list[Seen], Tensor]:
    """The images with their prompts: float [N, 3, 64, 64] in 0..1."""
    lines = (folder / "images.jsonl").read_text().splitlines()
    pixels = load_file(folder / "images.safetensors")["images"]
    return [Seen(**json.loads(line)) for line in lines], pixels.permute(0, 3, 1, 2).float() / 255


def read_labels(folder: Path = FOLDER) -> list[bool]:
    """Whether each image shows its prompt, by eye; in the order of :func:`read_images`."""
    lines = (folder / "labels.jsonl").read_text().splitlines()
    return [bool(json.loads(line)["shows"]) for line in lines]


def sheets(out: Path, seen: Sequence[Seen], images: Tensor, side: int = 160) -> None:
    """Draw the images enlarged, :data:`PER_SHEET` to a sheet, each with its number and prompt and nothing else."""
    out.mkdir(parents=True, exist_ok=True)
    across = 5
    down = PER_SHEET // across
    for start in range(0, len(seen), PER_SHEET):
        sheet = Image.new("RGB", (across * (side + 8), down * (side + 34)), "white")
        draw = ImageDraw.Draw(sheet)
        for place in range(min(PER_SHEET, len(seen) - start)):
            number = start + place
            left = place % across * (side + 8)
            top = place // across * (side + 34)
            pixels = (images[number].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC), (left, top))
            words = f"{number}: {seen[number].prompt}"
            draw.text((left + 2, top + side + 2), words[:27] + "\n" + words[27:], fill="black")
        sheet.save(out / f"sheet-{start // PER_SHEET:02d}.png")


def _pixels(png: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(png)).convert("RGB")))


if __name__ == "__main__":
    if sys.argv[1] == "collect":
        collect()
    else:
        sheets(Path(sys.argv[2]), *read_images())
