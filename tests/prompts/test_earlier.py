"""A run that an earlier version began is resumed with the corpus as that version read it."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import Corpus, open_corpus
from tests.prompts.corpora import write

# What this version reads in another way or refuses → file, content, and the digest that commit 71f50b4 computed.
CHANGED: dict[str, tuple[str, str, str]] = {
    "numbers of several forms": (
        "p.csv",
        "prompt,a,b,c\r\na cat,1.50,12e5,true\r\na dog,2,1234567890123456789,FALSE\r\n",
        "ef6ec7f02d491f318214b702211d85cbe0687db9fd8fda08166395d5da0465aa",
    ),
    "ends of lines in cells": (
        "p.csv",
        'prompt,note\r\n"a cat\r\nand a dog","x\r\ny"\r\n',
        "d22910b29d0bcb7ffce42b9e6f066bf411a37dbf0adbd91d2b9847c61e8bfeb1",
    ),
    "letter case": (
        "p.csv",
        "prompt,ID,Seed\na cat,1,2\n",
        "a2313438763bc4432a176eae4999969891ab1c1fbd2aa85093672f4dd41827c9",
    ),
    "header taken for a prompt": (
        "p.txt",
        "Prompt\tTag\na cat\tx\n",
        "db43834006d0a882060ebf4d9838721a350b5ebae9e8e30eeb509be111ed0270",
    ),
    "byte order mark within": (
        "p.txt",
        "a cat\n\ufeffa dog\n",
        "b2401b2085d4c871e6fa38299410206129b5d7c928f3d98b81cbd539f61ce26f",
    ),
    "invisible prompt": (
        "p.txt",
        "a cat\n\u200b\n",
        "2bea17250d446b20e67df8562335c30d65335fdb72de47e19a9137a10a5d3b00",
    ),
    "rounded integers": (
        "p.jsonl",
        '{"prompt": "a", "n": 9007199254740993}\n{"prompt": "b", "n": 0.5}\n',
        "60a74d3e52fedbce1507eafec3adf3b4731bcc9aedc4a73de7073208dc38ccd7",
    ),
    "key twice": (
        "p.jsonl",
        '{"prompt": "a", "n": 1, "n": 2}\n',
        "7b336b414d4660e0c2fbfe8b2641d25a677299a849e3f5072de700cf05568c5d",
    ),
    "folder of tables": (
        "set/train.csv",
        "prompt,zip,day\na cat,007,2024-01-01\na dog,12,2024-01-02\n",
        "a8db4dd9fa5051c940e539be0b22005a08a0fbd4f0d3fa1a2d2528afbc448f7f",
    ),
}
LABELS = "7b7a5df55056f0ae7ac29ed68b3f80d1acc19f4700072e29af1742f0d69287ae"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _config(source: Path) -> RunConfig:
    return RunConfig.model_validate({"corpus": {"source": str(source)}})


def _now(config: RunConfig) -> Corpus | None:
    """The corpus of a new run; None where it is refused."""
    try:
        return open_corpus(config)
    except UserError:
        return None


@pytest.mark.parametrize("kind", CHANGED)
def test_the_digest_is_that_of_the_earlier_version(tmp_path: Path, kind: str) -> None:
    name, content, digest = CHANGED[kind]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write(path, content)
    config = _config(tmp_path / name.split("/")[0])
    now = _now(config)
    assert now is None or now.digest != digest
    then = open_corpus(config, digest)
    assert then.digest == digest
    assert len(list(then.rows())) == then.size


def test_class_labels_are_numbers_in_a_run_that_began_so(tmp_path: Path) -> None:
    features = datasets.Features(
        {"prompt": datasets.Value("string"), "style": datasets.ClassLabel(names=["photo", "paint"])}
    )
    datasets.disable_progress_bars()
    data = datasets.Dataset.from_dict({"prompt": ["a", "b"], "style": [1, 0]}, features=features)
    data.save_to_disk(tmp_path / "saved")
    config = _config(tmp_path / "saved")
    assert [row.extra["style"] for row in open_corpus(config).rows()] == ["paint", "photo"]
    then = open_corpus(config, LABELS)
    assert then.extra_schema.field("style").type == pa.int64()
    assert [row.extra["style"] for row in then.rows()] == [1, 0]


def test_values_are_those_of_the_earlier_version(tmp_path: Path) -> None:
    name, content, digest = CHANGED["numbers of several forms"]
    first, second = open_corpus(_config(write(tmp_path / name, content)), digest).rows()
    assert first.extra == {"a": 1.5, "b": 1200000.0, "c": True}
    assert second.extra == {"a": 2.0, "b": 1.2345678901234568e18, "c": False}


def test_another_corpus_is_read_as_a_new_one_is(tmp_path: Path) -> None:
    """The run directory then says that the corpus has changed."""
    config = _config(write(tmp_path / "p.csv", "prompt,a\na cat,1.50\n"))
    assert open_corpus(config, "0" * 64).digest == open_corpus(config).digest
    write(tmp_path / "p.csv", "prompt,ID\na cat,1\n")
    with pytest.raises(UserError, match="letter case aside"):
        open_corpus(config, "0" * 64)
