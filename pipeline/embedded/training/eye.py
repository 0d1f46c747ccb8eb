"""Images labelled by eye, which say how far judges and scorers can be trusted.

There are three collections. ``v1`` holds images of the models of version 1: first and kept images of searches, and
images without a search; ``eye collect`` makes it. ``complex`` holds the first and the kept images of a run of
``configs/embedded-complex.yaml``, and ``practice`` those of such a run over training prompts; ``eye gather`` reads both
from the runs. All are shuffled. ``eye sheets`` draws the images without saying which is which, to be labelled by
looking. The labels are one line per image in ``labels.jsonl``: 1 where the image shows what its prompt says. The rule:
every object can be recognised without reading the prompt, has its colour, and stands where the prompt says. So a smudge
is no elephant, and a plain disc is no clock.

``v1`` is split by prompt into a development half and a held-out half. Thresholds and the length of a training may be
chosen on the development half and on ``practice``. Figures are reported on the held-out half and on ``complex``.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor

import noisesmith as ns
from noisesmith.pipeline.embedded.grammar import COLOURS, NOUNS, THINGS, Phrase, ScenePrompt, prompts

FOLDER = Path(__file__).with_name("labelled")
REPORTED = ("v1", "complex")  # figures are reported on these
PRACTICE = "practice"
COLLECTIONS = (*REPORTED, PRACTICE)
SEED = 15_000  # of prompts and noises; nothing is trained or searched with it elsewhere
SEARCHED = {"complex": 112, "simple": 32}  # prompts searched, by grammar
ROUNDS = 10
COUNT = 400
BATCH = 16
PER_SHEET = 20


@dataclass(frozen=True)
class Seen:
    """One image to label: its prompt, and where it comes from.

    ``origin`` is ``first``, ``kept``, ``both`` (a search that kept its first image) or ``random``; ``held_out`` says
    whether figures are reported on it. All images of a prompt are held out, or none.
    """

    prompt: str
    origin: str
    held_out: bool = True


def collect(seed: int = SEED) -> None:
    """Make :data:`COUNT` images with the models of version 1."""
    found: list[tuple[Seen, bytes]] = []
    with ns.load(_config(seed, ROUNDS)) as searcher:
        for grammar, count in SEARCHED.items():
            asked = [str(prompt) for prompt in itertools.islice(prompts(grammar, seed), count)]
            for start in range(0, count, BATCH):
                for result in searcher.search(asked[start : start + BATCH]):
                    found += _first_and_kept(result.prompt, result.result.image_initial, result.result.image)
    singles = [str(ScenePrompt(phrase)) for phrase in itertools.islice(_singles(seed), COUNT - len(found))]
    for result in ns.search(singles, _config(seed + 1, 0)):
        found.append((Seen(result.prompt, "random"), result.result.image))
    halved = [(replace(seen, held_out=_in_second_half(seen.prompt)), png) for seen, png in found]
    _write("v1", halved, seed)


def gather(collection: str, run: Path, seed: int = SEED) -> None:
    """Read the first and the kept images of a run into ``complex`` or ``practice``."""
    found: list[tuple[Seen, bytes]] = []
    for row in ns.read_rows(run):
        found += _first_and_kept(row["prompt"], row["image_initial"], row["image"])
    held_out = collection != PRACTICE
    _write(collection, [(replace(seen, held_out=held_out), png) for seen, png in found], seed)


def _in_second_half(prompt: str) -> bool:
    return hashlib.sha256(prompt.encode()).digest()[0] % 2 == 1


def _first_and_kept(prompt: str, first: bytes | None, kept: bytes) -> list[tuple[Seen, bytes]]:
    """Both images of a search, or one where the first was kept."""
    assert first is not None, "output.image_initial is on by default"
    if first == kept:
        return [(Seen(prompt, "both"), kept)]
    return [(Seen(prompt, "first"), first), (Seen(prompt, "kept"), kept)]


def _write(collection: str, found: list[tuple[Seen, bytes]], seed: int) -> None:
    """Write images as WebP files without loss in one safetensors file, and what they are, in random order."""
    random.Random(seed).shuffle(found)
    folder = FOLDER / collection
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Tensor] = {}
    for number, (_, png) in enumerate(found):
        webp = io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").save(webp, "WEBP", lossless=True, quality=100, method=6)
        files[f"{number:03}"] = torch.frombuffer(bytearray(webp.getvalue()), dtype=torch.uint8)
    save_file(files, folder / "images.safetensors", {"seed": str(seed)})
    lines = [json.dumps(asdict(seen)) for seen, _ in found]
    (folder / "images.jsonl").write_text("\n".join(lines) + "\n")


def _config(seed: int, rounds: int) -> ns.RunConfig:
    """Searches without guidance, as ``configs/embedded-complex.yaml`` is."""
    generators = {"model": "embedded/v1", "steps": 20, "guidance_scale": 1.0, "batch_size": BATCH}
    return ns.RunConfig(
        seed=seed,
        generators=generators,
        scorers={"model": "embedded/v1"},
        optimizer={"method": "noise_diffusion", "rounds": rounds},
    )


def _singles(seed: int) -> Iterator[Phrase]:
    """One object alone, every noun and every colour in turn."""
    rng = random.Random(f"singles/{seed}")
    for number in itertools.count():
        noun = NOUNS[number % len(NOUNS)]
        yield Phrase(noun, COLOURS[rng.randrange(len(COLOURS))] if noun in THINGS else None)


def read_images(collection: str) -> tuple[list[Seen], Tensor]:
    """The images with their prompts: float [N, 3, 64, 64] in 0..1."""
    files = load_file(FOLDER / collection / "images.safetensors")
    pixels = torch.stack([_pixels(files[name].numpy().tobytes()) for name in sorted(files)])
    return read_seen(collection), pixels.permute(0, 3, 1, 2).float() / 255


def read_seen(collection: str) -> list[Seen]:
    """The images' prompts and origins, in the order of :func:`read_images`."""
    lines = (FOLDER / collection / "images.jsonl").read_text().splitlines()
    return [Seen(**json.loads(line)) for line in lines]


def read_labels(collection: str) -> list[bool]:
    """Whether each image shows its prompt, by eye; in the order of :func:`read_images`."""
    lines = (FOLDER / collection / "labels.jsonl").read_text().splitlines()
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


def _pixels(file: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(file)).convert("RGB")))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["collect"]:
            collect()
        case ["gather", ("complex" | "practice") as collection, run]:
            gather(collection, Path(run))
        case ["sheets", collection, out]:
            sheets(Path(out), *read_images(collection))
        case _:
            sys.exit("usage: eye collect | gather complex|practice RUN | sheets COLLECTION FOLDER")
