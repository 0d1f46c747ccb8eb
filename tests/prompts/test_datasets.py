"""Corpora that the ``datasets`` library opens."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import folder as folders
from tests.prompts.corpora import corpus, prompts, write


@dataclass
class Touch:
    """Creates a file when it is unpickled."""

    path: str

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


class TestDatasets:
    @pytest.fixture(autouse=True)
    def own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        datasets.disable_progress_bars()
        yield
        datasets.enable_progress_bars()

    def test_saved_dataset_and_split_of_a_dict(self, tmp_path: Path) -> None:
        data = datasets.Dataset.from_dict({"text": ["a cat", "a dog"], "n": [1, 2]})
        data.save_to_disk(tmp_path / "one")
        datasets.DatasetDict({"test": data}).save_to_disk(tmp_path / "many")
        one = corpus(tmp_path / "one", column="text")
        assert [(row.prompt, row.extra) for row in one.rows()] == [("a cat", {"n": 1}), ("a dog", {"n": 2})]
        assert corpus(tmp_path / "many", column="text", split="test").digest == one.digest
        with pytest.raises(UserError, match=r"corpus\.split: .*no split 'train' but test"):
            corpus(tmp_path / "many", column="text")

    def test_directory_that_load_dataset_opens(self, tmp_path: Path) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        write(folder / "train.jsonl", '{"prompt": "a cat", "n": 1}\n{"prompt": "a dog", "n": 2}\n')
        opened = corpus(folder)
        assert prompts(opened) == ["a cat", "a dog"]
        assert opened.extra_schema == pa.schema([("n", pa.int64())])

    def test_images_are_refused(self, tmp_path: Path) -> None:
        features = datasets.Features({"prompt": datasets.Value("string"), "photo": datasets.Image()})
        data = datasets.Dataset.from_dict({"prompt": ["a cat"], "photo": [None]}, features=features)
        data.save_to_disk(tmp_path / "images")
        with pytest.raises(UserError, match=r"'photo' holds images .*columns: {drop: \[photo\]}"):
            corpus(tmp_path / "images")

    @pytest.mark.parametrize("name", ["json", "text", "pandas", "webdataset"])
    def test_the_name_of_a_format_is_no_dataset(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """The library would take every file of the working directory for it."""
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "private.json", '{"prompt": "a cat"}\n')
        with pytest.raises(UserError, match=rf"corpus\.source: {name} is a file format; give a file"):
            corpus(name)

    @pytest.mark.parametrize("name", ["train.pkl", "train.pickle", "train.py", "loader.yaml"])
    def test_nothing_that_could_run_is_read(self, tmp_path: Path, name: str) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        write(folder / name, pickle.dumps(Touch(str(tmp_path / "pwned"))))
        with pytest.raises(UserError, match=r"corpus\.source: .*cannot be opened as a dataset"):
            corpus(folder)
        assert not (tmp_path / "pwned").exists()

    def test_a_damaged_file_is_one_sentence(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """The library logs, draws bars and hides the cause."""
        datasets.enable_progress_bars()
        folder = tmp_path / "folder"
        folder.mkdir()
        write(folder / "train.jsonl", b'{"prompt": "a cat"}\n{"prompt": }\n')
        with pytest.raises(UserError, match=r"train\.jsonl: line 2: is not valid JSON"):
            corpus(folder)
        assert capfd.readouterr().err == ""

    def test_a_folder_of_everything_is_no_dataset(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The library would look at every file below it."""
        monkeypatch.setattr(folders, "MAX_FILES", 3)
        for n in range(4):
            (tmp_path / f"{n}").mkdir()
            write(tmp_path / f"{n}" / "x.jsonl", '{"prompt": "a cat"}\n')
        with pytest.raises(UserError, match=r"holds more than 3 files; give the folder of one dataset"):
            corpus(tmp_path)
        assert prompts(corpus(tmp_path / "0")) == ["a cat"]

    def test_unreachable_name_and_empty_directory(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for source in ("nobody/nothing-of-this-name", tmp_path / "empty"):
            with pytest.raises(UserError, match=r"corpus\.source: .*cannot be opened as a dataset") as caught:
                corpus(source)
            assert "\n" not in str(caught.value)
