"""A run's report: the card opens the data, says what is true, and lets no prompt or setting break it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import datasets
import pyarrow as pa
import pytest
import yaml
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from noisesmith.pipeline.config import METHODS, RunConfig
from noisesmith.pipeline.errors import RunError
from noisesmith.pipeline.records import Provenance
from noisesmith.pipeline.report import renew_report, write_report
from noisesmith.pipeline.report.card import escape
from noisesmith.pipeline.report.sample import spread, spread_rows
from noisesmith.pipeline.sinks import SideWriter, hold_side, read_rows

Made = tuple[Path, RunConfig, Provenance]
MakeRun = Callable[..., Made]
# For each kind of search: its settings, words of its text that no other text has, and how a reader gets the noise.
RECIPE, STORED = "The `recipe` column rebuilds", "the `noise_fp16` column stores the noise"
SAID: dict[str, tuple[dict[str, Any], str, str]] = {
    "none": ({"rounds": 0}, "No search: each prompt has one image", RECIPE),
    "random_sampling": ({}, "Random sampling: each round makes an image from a fresh noise", RECIPE),
    "random_diffusion": ({}, "towards a random noise σ", RECIPE),
    "noise_diffusion": ({}, "draws candidate noises and moves z_T", RECIPE),
    "order_statistic": (
        {"method": "noise_diffusion", "selection": "order_statistic"},
        "from the distribution of the best of N",
        STORED,
    ),
    "pgd": ({}, "Projected gradient ascent", STORED),
    "mean_variance": ({}, "one step of Adam on μ and log σ²", STORED),
    "initno": ({}, "arxiv.org/abs/2404.04650", STORED),
    "attend_and_excite": ({}, "arxiv.org/abs/2301.13826", RECIPE),
}
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def report(made: Made, **operations: Any) -> tuple[Path, str]:
    run_dir, config, provenance = made
    write_report(run_dir, config, provenance, operations)
    return run_dir, (run_dir / "README.md").read_text()


def front_matter(card: str) -> dict[str, Any]:
    _, yaml_text, _ = card.split("---\n", 2)
    data: dict[str, Any] = yaml.safe_load(yaml_text)
    return data


@pytest.mark.parametrize("formats", [["parquet", "webdataset"], ["parquet"], ["webdataset"]])
def test_load_dataset_on_a_run_directory_gives_decoded_images(
    make_run: MakeRun, formats: list[str], tmp_path: Path
) -> None:
    run_dir, _ = report(make_run(7, output={"formats": formats}))
    rows = datasets.load_dataset(str(run_dir), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 7
    image = rows[0]["image" if "parquet" in formats else "png"]
    assert isinstance(image, Image.Image)
    assert image.convert("RGB").getpixel((0, 0)) == (0, 0, 255)


def test_runs_in_folders_of_one_name_are_not_taken_for_each_other(make_run: MakeRun, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    for folder, rows in (("one", 2), ("two", 3)):
        run_dir, _ = report(make_run(rows, output={"dir": str(tmp_path / folder / "run")}))
        assert len(datasets.load_dataset(str(run_dir), split="train", cache_dir=cache)) == rows


def test_stats_hold_the_figures_the_failures_and_what_the_driver_measured(make_run: MakeRun) -> None:
    run_dir, _ = report(make_run(7, failed=2), seconds=12.5)
    stats = json.loads((run_dir / "stats.json").read_text())
    assert stats["summary"]["rows"] == 7
    assert stats["summary"]["score"]["gain"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert stats["summary"]["judges"]["eye"]["kept"]["mean"] == 1.0
    assert stats["summary"]["curve"] == [0.25, 0.5, 0.75]
    assert (stats["failed"], stats["operations"]) == (2, {"seconds": 12.5})


def test_a_report_leaves_nothing_but_its_three_files(make_run: MakeRun) -> None:
    made = make_run(3)
    run_dir = made[0]
    before = {path.name for path in run_dir.iterdir()}
    report(made)
    assert {path.name for path in run_dir.iterdir()} - before == {"stats.json", "README.md", "contact_sheet.png"}


def test_a_report_written_again_is_the_same(make_run: MakeRun) -> None:
    made = make_run(3)
    report(made)
    assert report(made)[1] == report(made)[1]


def test_a_report_cut_off_is_written_at_the_next_start_and_only_then(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_run(3)
    run_dir, config, _ = made
    with monkeypatch.context() as patch:
        full = OSError(28, "No space left on device")
        patch.setattr("noisesmith.pipeline.report.write_card", Mock(side_effect=full))
        with pytest.raises(RunError, match=r"the report cannot be written \(.*No space left on device"):
            report(made)
    renew_report(run_dir, config)
    renewed = (run_dir / "README.md").read_text()
    (run_dir / "stats.json").unlink()
    renew_report(run_dir, config)
    assert not (run_dir / "stats.json").exists()
    assert report(made)[1] == renewed


def test_a_run_without_a_row_has_a_report_too(make_run: MakeRun) -> None:
    run_dir, card = report(make_run(0, failed=2))
    assert "configs" not in front_matter(card)
    assert json.loads((run_dir / "stats.json").read_text())["summary"]["score"] is None
    renew_report(run_dir, make_run(0, failed=2)[1])
    assert (run_dir / "README.md").read_text() == card


def test_the_front_matter_is_what_the_hub_accepts(make_run: MakeRun) -> None:
    run_dir, text = report(make_run(7))
    card = DatasetCard.load(run_dir / "README.md")
    assert card.data.to_dict() == front_matter(text)
    data = card.data.to_dict()
    assert data["task_categories"] == ["text-to-image"]
    assert data["size_categories"] == ["n<1K"]
    assert {"synthetic", "noisesmith", "noise-diffusion"} <= set(data["tags"])
    assert data["license"] == "apache-2.0"
    assert data["pretty_name"] == "a_run"
    (only,) = data["configs"]
    assert only["data_files"] == [{"split": "train", "path": "data/*.parquet"}]


def test_images_of_other_models_take_no_licence_for_granted(make_run: MakeRun) -> None:
    _, card = report(make_run(1, generators={"model": "someone/model"}))
    data = front_matter(card)
    assert data["license"] == "other"
    assert data["license_name"]
    assert data["license_link"] == "https://huggingface.co/someone/model"
    assert "Apache" not in card


def test_the_card_describes_exactly_the_columns_of_the_rows(make_run: MakeRun) -> None:
    run_dir, card = report(make_run(2))
    table = card.split("## Columns")[1].split("## Limitations")[0]
    described = [
        line.split(" | ")[0].removeprefix("| ").replace("\\", "") for line in table.splitlines() if "|" in line
    ]
    assert described[2:] == list(next(iter(read_rows(run_dir))))
    assert "| topic | from the prompt list |" in card


def test_the_card_shows_settings_and_figures(make_run: MakeRun) -> None:
    _, card = report(make_run(7, failed=1))
    for words in (
        "revision ab12",
        "ddim, 50 steps, guidance 7.5",
        "1 row failed",
        "candidates 50",
        "arxiv.org/abs/2411",
    ):
        assert words in card
    assert re.search(r"VQA score \| 7 \| 0\.250 .* \| 0\.750 .* \| \+0\.500", card)
    assert re.search(r"judge eye \| 7 \| 0\.000 .* \| 1\.000 .* \| \+1\.000", card)


def test_the_card_says_so_when_no_judge_looked(make_run: MakeRun) -> None:
    _, card = report(make_run(0, failed=1, judges=[], optimizer={"method": "random_sampling"}))
    assert "No independent judge looked" in card
    assert "Random sampling" in card
    assert "gradient" not in card


@pytest.mark.parametrize(
    ("scorer", "meaning", "asked"),
    [
        ({}, 'P("Yes") of the scoring model, or the similarity or reward', "Does this figure show"),
        ({"readout": "caption"}, "the likelihood of the prompt as a caption", "what the image shows"),
        ({"readout": "contrastive"}, "the probability of the prompt against edits of it", "Does this figure show"),
        ({"asks": "questions"}, "the geometric mean of P(answer)", "questions of each row about the parts"),
    ],
)
def test_the_card_says_what_the_score_is(make_run: MakeRun, scorer: dict[str, Any], meaning: str, asked: str) -> None:
    _, card = report(make_run(3, scorers=scorer))
    assert f"The VQA score is {meaning}" in card
    assert f"| question, where the model answers one | {asked}" in card


def card_of(make_run: MakeRun, **optimizer: Any) -> str:
    """The card of a run with these optimizer settings whose only row failed, each run of spaces as one space."""
    return " ".join(report(make_run(0, failed=1, optimizer=optimizer))[1].split())


@pytest.mark.parametrize("kind", SAID)
def test_the_card_says_what_the_run_s_own_method_does_and_where_its_noise_is(make_run: MakeRun, kind: str) -> None:
    settings, words, noise = SAID[kind]
    card = card_of(make_run, **({"method": kind} | settings))
    said = [other for other, (_, theirs, _) in SAID.items() if theirs in card]
    assert said == [kind]
    assert words in card
    assert [text for text in (RECIPE, STORED) if text in card] == [noise]
    assert ("selected the images, so it rises by construction" in card) is (kind != "none")
    assert "previews" not in card.split("## Columns")[0]
    assert "A round starts from" not in card


def test_every_method_has_a_text_of_its_own() -> None:
    assert set(SAID) == {*METHODS, "order_statistic"}


def test_noise_that_is_neither_rebuilt_nor_stored_is_said_to_be_lost(make_run: MakeRun) -> None:
    _, card = report(make_run(0, failed=1, optimizer={"method": "pgd"}, output={"noise": False}))
    assert "an image cannot be rebuilt" in " ".join(card.split())
    assert "noisesmith replay" not in card
    assert "noise_fp16" not in card


@pytest.mark.parametrize("method", [method for method in METHODS if method != "none"])
@pytest.mark.parametrize("keep", [1, 3])
def test_the_card_says_how_previews_were_used(make_run: MakeRun, method: str, keep: int) -> None:
    preview = {"steps": 5, "keep": keep}
    card = card_of(make_run, method=method, preview=preview)
    assert "Rounds are previews: the sampler takes 5 steps while it searches." in card
    again = "the best preview is" if keep == 1 else "the best 3 previews are"
    assert f"{again} rendered again at full steps and scored again" in card


def test_the_card_says_how_probes_were_used(make_run: MakeRun) -> None:
    card = card_of(make_run, method="noise_diffusion", probe={"at": 0.4, "keep": 2})
    assert "Rounds are probes: the sampler pauses after 40% of its steps" in card
    assert "the best 2 images go on from there to full steps and are scored again" in card


@pytest.mark.parametrize("method", ["random_diffusion", "noise_diffusion", "pgd"])
def test_the_card_says_which_noise_a_round_starts_from(make_run: MakeRun, method: str) -> None:
    assert "A round starts from the noise of the best image so far" in card_of(
        make_run, method=method, move_from="best"
    )


def test_settings_cannot_add_markup_to_the_card(make_run: MakeRun) -> None:
    hostile = "<script>alert(1)</script> | [x](http://x) *b* `c`\n\n# heading\n---"
    _, card = report(make_run(1, generators={"negative_prompt": hostile}))
    html = MARKDOWN.render(card.split("---\n", 2)[2])
    assert "<script>" not in html
    assert html.count("<h1>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt; | [x](http://x) *b* `c` # heading ---" in html


@given(st.text(max_size=60))
def test_escaped_text_shows_its_own_characters_and_nothing_else(text: str) -> None:
    words = " ".join(text.replace("\0", "").split())
    (paragraph, _) = MARKDOWN.parse(f"x {escape(words)} x")[1:]
    shown = "".join(token.content for token in paragraph.children or [])
    assert shown == f"x {words} x"
    assert {token.type for token in paragraph.children or []} <= {"text"}


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 24))
def test_picks_are_rows_of_their_shards_and_no_more_than_asked(sizes: list[int], limit: int) -> None:
    picks = spread(sizes, limit)
    assert len(picks) == len(sizes)
    assert sum(map(len, picks)) <= limit
    for size, positions in zip(sizes, picks, strict=True):
        assert all(position < size for position in positions)


def test_few_shards_are_sampled_evenly_and_short_runs_whole() -> None:
    assert spread([10, 10], 4) == [[0, 5], [0, 5]]
    assert spread([2, 3], 24) == [[0, 1], [0, 1, 2]]
    assert spread([1000] * 5, 2) == [[0], [], [0], [], []]


@pytest.mark.parametrize("formats", [["parquet"], ["webdataset"]])
def test_the_sheet_reads_rows_from_all_over_the_run(make_run: MakeRun, formats: list[str]) -> None:
    run_dir, *_ = make_run(12, output={"formats": formats})
    prompts = [row["prompt"].split()[-1] for row in spread_rows(run_dir, ["prompt", "image"], 4)]
    assert prompts == ["0", "3", "6", "9"]


@pytest.mark.parametrize("formats", [["parquet", "webdataset"], ["webdataset"]])
def test_a_side_table_opens_as_its_own_configuration(make_run: MakeRun, formats: list[str], tmp_path: Path) -> None:
    """Where the rows are Parquet too; else the card's code opens its files. Columns of any type of ``datasets`` do."""
    made = make_run(7, output={"formats": formats})
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    columns: dict[str, tuple[pa.DataType, object]] = {
        "sharpness": (pa.float64(), 0.5),
        "embedding": (pa.list_(pa.float32(), 2), [0.25, 0.5]),
        "phash": (pa.binary(8), b"12345678"),
        "seen": (pa.timestamp("us", "UTC"), moment),
        "price": (pa.decimal128(5, 2), Decimal("1.25")),
        "faces": (
            pa.list_(pa.struct([("box", pa.list_(pa.int32(), 4)), ("at", pa.timestamp("us", "UTC"))])),
            [
                {"box": [1, 2, 3, 4], "at": moment},
            ],
        ),
    }
    values = {name: value for name, (_, value) in columns.items()}
    run_dir = made[0]
    rows = list(read_rows(run_dir, ["id"]))
    with hold_side(run_dir, print) as lock:
        schema = pa.schema([(name, kind) for name, (kind, _) in columns.items()])
        writer = SideWriter(run_dir, "sharp", schema, lock)
        for shard, shard_rows in enumerate((rows[:5], rows[5:])):
            writer.put(shard, [row | values for row in shard_rows], {"model": "eye"})
    _, card = report(made)
    code = re.search(r"sharp = load_dataset\((.*), split=\"train\"\)", card)
    assert code is not None
    arguments = eval(f"(lambda *a, **k: (a, k))({code[1]})")
    opened = datasets.load_dataset(*arguments[0], **arguments[1], split="train", cache_dir=str(tmp_path / "cache"))
    assert opened.to_list() == [row | values for row in rows]
    assert len(datasets.load_dataset(str(run_dir), split="train", cache_dir=str(tmp_path / "cache"))) == 7
    assert "| sharpness | from the side table sharp |" in card
