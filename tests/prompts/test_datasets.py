"""Corpora that the ``datasets`` library opens."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import folder as folders
from noisesmith.pipeline.prompts import open_corpus
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

    @pytest.fixture
    def configurations(self, tmp_path: Path) -> Path:
        """A folder with two configurations, as its card says; each has a split of its own name, too."""
        folder = tmp_path / "set"
        folder.mkdir()
        card = "---\nconfigs:\n- {config_name: short, data_files: short.jsonl}\n- config_name: long\n  data_files:\n"
        write(folder / "README.md", f"{card}  - {{split: dev, path: long.jsonl}}\n---\n# A set\n")
        write(folder / "short.jsonl", '{"prompt": "a cat"}\n')
        write(folder / "long.jsonl", '{"prompt": "a cat and a dog"}\n')
        return folder

    def test_a_configuration_is_chosen_or_all_are_named(self, configurations: Path) -> None:
        for section in ({}, {"config": "middle"}):
            with pytest.raises(UserError, match=r"corpus\.config: .*choose one of short, long, such as .*=short"):
                corpus(configurations, **section)
        assert prompts(corpus(configurations, config="short")) == ["a cat"]
        assert prompts(corpus(configurations, config="long", split="dev")) == ["a cat and a dog"]
        with pytest.raises(UserError, match=r"corpus\.split: .*set has no split 'train' but dev"):
            corpus(configurations, config="long")

    def test_a_configuration_is_refused_where_there_is_none(self, tmp_path: Path) -> None:
        source = write(tmp_path / "p.txt", "a cat\n")
        datasets.Dataset.from_dict({"prompt": ["a cat"]}).save_to_disk(tmp_path / "saved")
        for path in (source, tmp_path / "saved", "embedded/simple"):
            with pytest.raises(UserError, match=r"corpus\.config: .*remove"):
                corpus(path, config="short", size=1)

    def test_what_says_nothing_of_a_source_is_refused_unless_the_run_exists(self, tmp_path: Path) -> None:
        file = write(tmp_path / "p.jsonl", '{"prompt": "a cat"}\n')
        folder = tmp_path / "folder"
        folder.mkdir()
        write(folder / "train.jsonl", '{"prompt": "a cat"}\n')
        datasets.Dataset.from_dict({"prompt": ["a cat"]}).save_to_disk(tmp_path / "saved")
        refused: list[tuple[Path | str, list[str]]] = [
            (file, ["split", "revision", "seed"]),
            (folder, ["revision", "seed"]),
            (tmp_path / "saved", ["split", "revision", "seed"]),
            ("embedded/simple", ["split", "revision"]),
        ]
        values = {"split": "test", "revision": "main", "seed": 7}
        for source, fields in refused:
            for field in fields:
                with pytest.raises(UserError, match=rf"^corpus\.{field}: .*; remove it$"):
                    corpus(source, size=1, **{field: values[field]})
        config = RunConfig.model_validate({"corpus": {"source": str(file), "seed": 7}})
        assert open_corpus(config, started="0" * 64).size == 1

    @pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
    def test_a_column_may_be_null_or_absent_in_some_files(self, tmp_path: Path, kind: str) -> None:
        folder = tmp_path / "set"
        folder.mkdir()
        notes: list[dict[str, list[str | None]]] = [{"note": [None]}, {"note": ["x"]}, {}]
        for number, columns in enumerate(notes):
            data = datasets.Dataset.from_dict({"prompt": [f"a cat {number}"], **columns})
            save = {"jsonl": data.to_json, "csv": data.to_csv, "parquet": data.to_parquet}[kind]
            save(str(folder / f"{number}.{kind}"))
        opened = corpus(folder)
        assert opened.extra_schema == pa.schema([("note", pa.string())])
        assert [row.extra["note"] for row in opened.rows()] == [None, "x", None]
        assert [row.prompt for row in opened.rows(1)] == ["a cat 1", "a cat 2"]
        assert prompts(corpus(folder, size=2)) == ["a cat 0", "a cat 1"]

    def test_a_type_that_fits_no_other_file_names_file_and_column(self, tmp_path: Path) -> None:
        folder = tmp_path / "set"
        folder.mkdir()
        for number, value in enumerate((1, "x")):
            data = datasets.Dataset.from_dict({"prompt": ["a cat"], "note": [value]})
            data.to_parquet(str(folder / f"{number}.parquet"))
        with pytest.raises(UserError, match=r"set/1\.parquet: column 'note' has no single type \(int64 .* string"):
            corpus(folder)

    def test_tables_and_json_keep_their_texts_in_a_folder(self, tmp_path: Path) -> None:
        """The library would read 007 as 7, NA as null and a date as a timestamp."""
        for kind, text in (
            ("csv", "prompt,zip,note,day\na cat,007,NA,2024-01-01\n"),
            ("tsv", "prompt\tzip\tnote\tday\na cat\t007\tNA\t2024-01-01\n"),
            ("jsonl", '{"prompt": "a cat", "zip": "007", "note": "NA", "day": "2024-01-01"}\n'),
        ):
            folder = tmp_path / kind
            folder.mkdir()
            write(folder / f"train.{kind}", text)
            (row,) = corpus(folder).rows()
            assert row.extra == {"zip": "007", "note": "NA", "day": "2024-01-01"}

    def test_a_pointer_in_a_folder_is_named(self, tmp_path: Path) -> None:
        folder = tmp_path / "set"
        folder.mkdir()
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
        write(folder / "train.parquet", pointer)
        with pytest.raises(UserError, match=r"set/train\.parquet: is a Git LFS pointer"):
            corpus(folder)

    @pytest.mark.parametrize("name", ["sweep[lr=0.1]", "what?", "a*b", "a::b", "$HOME", "100%", "a b#c"])
    @pytest.mark.parametrize("kind", ["files", "text", "saved", "card"])
    def test_the_path_may_hold_any_character(self, tmp_path: Path, name: str, kind: str) -> None:
        folder = tmp_path / name / "set"
        plain = tmp_path / "plain"
        datasets.Dataset.from_dict({"prompt": ["a cat"]}).save_to_disk(plain)
        folder.mkdir(parents=True)
        if kind == "saved":
            shutil.copytree(plain, folder, dirs_exist_ok=True)
        elif kind == "text":
            write(folder / "p.txt", "a cat\n")
        else:
            write(folder / "p.jsonl", '{"prompt": "a cat"}\n')
        section = {"column": "text"} if kind == "text" else {}
        if kind == "card":
            write(folder / "README.md", "---\nconfigs:\n- {config_name: one, data_files: p.jsonl}\n---\n")
        assert prompts(corpus(folder, **section)) == ["a cat"]

    def test_unreachable_name_and_empty_directory(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for source in ("nobody/nothing-of-this-name", tmp_path / "empty"):
            with pytest.raises(UserError, match=r"corpus\.source: .*cannot be opened as a dataset") as caught:
                corpus(source)
            assert "\n" not in str(caught.value)
