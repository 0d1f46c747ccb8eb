"""``captions`` and ``simpletuner``: the documented loader steps of kohya, OneTrainer, ai-toolkit and SimpleTuner."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest

from noisesmith.pipeline.export.captions import one_line
from noisesmith.pipeline.records import Result, Row
from noisesmith.pipeline.sinks import read_rows
from tests.export.conftest import finished, lines, write, write_run
from tests.sinks.conftest import Run


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        ("a cat", "a cat"),
        (" a cat\nand a  dog\r\n", "a cat and a  dog"),
        ("a\u2028b\x85c\x0bd\n\n e", "a b c d e"),
        ("Größe 👁", "Größe 👁"),
    ],
)
def test_a_caption_is_one_line(prompt: str, caption: str) -> None:
    assert one_line(prompt) == caption


def test_trainers_find_the_image_bytes_and_the_whole_caption(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = write(run, "captions", out, splits={"val": 0.2})
    assert done.rows == {"train": 24, "val": 6}
    assert done.notes == ["30 prompts with several lines, or spaces at their ends, became one line."]
    config = tomllib.loads((out / "dataset.toml").read_text())
    image_dir = config["datasets"][0]["subsets"][0]["image_dir"]
    assert image_dir == "images"  # kohya looks for it in the directory it is started in
    folder = out / image_dir
    extension = config["general"]["caption_extension"]
    assert config["datasets"][0]["resolution"] == [32, 32]
    expected = {row["id"]: row for row in read_rows(run.dir, ["id", "prompt", "image"])}
    images = [path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg", ".jpeg", ".webp", ".bmp")]
    assert len(images) == 24
    for path in images:
        original = expected[path.stem]
        assert path.read_bytes() == original["image"]
        with open(os.path.splitext(path)[0] + extension, encoding="utf-8") as file:  # noqa: PTH122, PTH123
            lines = file.readlines()  # kohya takes lines[0], OneTrainer any line, SimpleTuner splits at "\n"
        assert lines == [original["prompt"].replace("\n", " ")]
        assert "\n" not in lines[0]
    # OneTrainer and ai-toolkit may look into subfolders, where a first image would have no caption.
    everywhere = sorted(path for path in out.rglob("*.png"))
    assert len(everywhere) == 30
    assert all(path.with_suffix(".txt").read_text().strip() for path in everywhere)


def test_the_file_of_simpletuner(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(run, "simpletuner", out, image_format="jpeg")
    images, texts = json.loads((out / "multidatabackend.json").read_text())
    assert (images["type"], images["dataset_type"], images["caption_strategy"]) == ("local", "image", "textfile")
    assert (images["resolution"], images["resolution_type"]) == (32, "pixel_area")
    assert (texts["dataset_type"], texts["default"]) == ("text_embeds", True)
    folder = out / images["instance_data_dir"]
    assert len(list(folder.glob("*.jpg"))) == 30
    for path in folder.glob("*.jpg"):
        assert PIL.Image.open(path).size == (32, 32)
        assert "\n" not in path.with_suffix(".txt").read_bytes().decode()
    for cache in (images["cache_dir_vae"], texts["cache_dir"]):
        assert not Path(cache).is_absolute()
        assert not (out / cache).is_relative_to(folder)


def test_images_of_several_sizes_are_trained_on_as_they_are(tmp_path: Path) -> None:
    """Without upscaling, kohya's bucket is the image's size in steps, up to the area of ``resolution``."""
    sizes = [(64, 32), (32, 64), (48, 40)]

    def make(row: Row) -> Result:
        width, height = sizes[row.index % 3]
        return replace(finished(row), width=width, height=height)

    run = write_run(tmp_path, lines(6), make)
    write(run, "captions", tmp_path / "kohya")
    (dataset,) = tomllib.loads((tmp_path / "kohya" / "dataset.toml").read_text())["datasets"]
    assert (dataset["enable_bucket"], dataset["bucket_no_upscale"]) == (True, True)
    for width, height in sizes:
        assert width * height <= dataset["resolution"][0] * dataset["resolution"][1]
        assert width % dataset["bucket_reso_steps"] == height % dataset["bucket_reso_steps"] == 0
    assert dataset["bucket_reso_steps"] % 8 == 0, "kohya takes no other steps"
    write(run, "simpletuner", tmp_path / "simpletuner")
    images, _ = json.loads((tmp_path / "simpletuner" / "multidatabackend.json").read_text())
    assert images["resolution"] == round((64 * 32) ** 0.5)


@pytest.mark.parametrize("to", ["captions", "simpletuner"])
def test_no_file_names_a_path_of_this_machine(
    run: Run, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(run, to, Path("out"))
    for path in (tmp_path / "out").iterdir():
        assert path.is_dir() or str(tmp_path) not in path.read_text(encoding="utf-8")


def test_prompts_of_one_line_stay_as_they_are(tmp_path: Path) -> None:
    run = write_run(tmp_path, [{"prompt": "a  cat, Größe 👁"}])
    assert write(run, "captions", tmp_path / "out").notes == []
    (caption,) = (tmp_path / "out/images").glob("*.txt")
    assert caption.read_bytes().decode() == "a  cat, Größe 👁"
