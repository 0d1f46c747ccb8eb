"""``webdataset``: equal tars in random order, which webdataset, ``datasets`` and a DataLoader read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import webdataset
from datasets import load_dataset
from torch.utils.data import DataLoader

from noisesmith.pipeline.sinks import read_rows
from tests.export.conftest import same, write
from tests.sinks.conftest import Run


def samples(folder: Path) -> list[dict[str, Any]]:
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    return list(webdataset.WebDataset(urls, shardshuffle=False))


def test_samples_are_the_rows_in_random_order(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(run, "webdataset", out, rows_per_shard=7, splits={"val": 0.2}, wids=True)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "train", "val", "wids.json"]
    expected = {row["id"]: row for row in read_rows(run.dir)}
    found = samples(out / "train")
    keys = [sample["__key__"] for sample in found]
    assert len(keys) == 24
    assert keys != sorted(keys)
    assert {*keys, *(sample["__key__"] for sample in samples(out / "val"))} == set(expected)
    for sample in found:
        original = expected[sample["__key__"]]
        assert {key for key in sample if not key.startswith("__")} == {"png", "txt", "json"}
        assert sample["png"] == original["image"]
        assert sample["txt"].decode() == original["prompt"]
        columns = json.loads(sample["json"])
        assert columns["score"] == original["score"]
        assert same(json.loads(columns["judge_eye"]), original["judge_eye"])
        assert json.loads(columns["accepted"]) == original["accepted"]
    index = json.loads((out / "wids.json").read_text())
    assert index["__kind__"] == "wids-shard-index-v1"
    assert [shard["nsamples"] for shard in index["shardlist"]] == [7, 7, 7, 3]
    assert all((out / shard["url"]).stat().st_size == shard["filesize"] for shard in index["shardlist"])


def test_a_seed_decides_the_order(run: Run, tmp_path: Path) -> None:
    orders = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write(run, "webdataset", tmp_path / name, rows_per_shard=10, seed=seed)
        orders.append([path.read_bytes() for path in sorted((tmp_path / name / "train").iterdir())])
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_datasets_and_workers_read_them(run: Run, tmp_path: Path, image_format: str) -> None:
    out = tmp_path / "out"
    write(run, "webdataset", out, rows_per_shard=5, splits={"val": 0.2}, image_format=image_format)
    opened = load_dataset("webdataset", data_dir=str(out))
    assert {name: split.num_rows for name, split in opened.items()} == {"train": 24, "validation": 6}
    streamed = load_dataset("webdataset", data_dir=str(out), split="train", streaming=True)
    assert sorted(row["__key__"] for row in streamed) == sorted(opened["train"]["__key__"])
    urls = [str(path) for path in sorted((out / "train").glob("*.tar"))]
    dataset = webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("__key__", image_format, "txt")
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=2)
    seen = {key: (image.shape, text) for key, image, text in loader}
    assert len(seen) == 24
    assert {shape for shape, _ in seen.values()} == {(32, 32, 3)}


@pytest.mark.slow
def test_ray_data_reads_the_folder(run: Run, tmp_path: Path) -> None:
    import ray

    out = tmp_path / "out"
    write(run, "webdataset", out / "tars", rows_per_shard=10)
    write(run, "dpo", out / "pairs")
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        tars = ray.data.read_webdataset(str(out / "tars" / "train")).take_all()
        assert {row["__key__"] for row in tars} == {row["id"] for row in read_rows(run.dir, ["id"])}
        pairs = ray.data.read_parquet(str(out / "pairs" / "data")).take_all()
        assert {row["label_0"] for row in pairs} == {0.0, 1.0}
    finally:
        ray.shutdown()
