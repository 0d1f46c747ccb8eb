"""Corpora: what is read, under which ids, and what is refused with which sentence."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.embedded import grammar
from noisesmith.pipeline.errors import RunError, UserError
from noisesmith.pipeline.prompts import Corpus, open_corpus, sources, tabular
from noisesmith.pipeline.records import index_of, row_id

PROMPT_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(str.strip)
FILES_ONCE = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def corpus(source: Path | str, **section: Any) -> Corpus:
    top = {"max_prompt_chars": section.pop("max_prompt_chars", 2000)}
    return open_corpus(RunConfig.model_validate({"corpus": {"source": str(source), **section}, **top}))


@dataclass
class Touch:
    """Creates a file when it is unpickled."""

    path: str

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def prompts(opened: Corpus) -> list[str]:
    return [row.prompt for row in opened.rows()]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


class TestIds:
    @given(st.integers(0, 10**9), PROMPT_TEXT)
    def test_are_the_place_and_the_prompts_hash(self, index: int, prompt: str) -> None:
        name = row_id(index, prompt)
        assert index_of(name) == index
        assert name == f"{index:08d}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
        assert set(name) <= set("0123456789abcdef-")

    @given(st.lists(PROMPT_TEXT, min_size=1, max_size=20))
    @FILES_ONCE
    def test_are_unique_whatever_the_duplicates(self, tmp_path: Path, texts: list[str]) -> None:
        source = write(tmp_path / "p.jsonl", "".join(json.dumps({"prompt": text}) + "\n" for text in texts * 2))
        rows = list(corpus(source).rows())
        assert len({row.id for row in rows}) == len(rows) == 2 * len(texts)
        assert [row.prompt for row in rows] == texts * 2
        assert [row.id for row in rows] == [row_id(index, text) for index, text in enumerate(texts * 2)]

    def test_do_not_depend_on_what_else_the_corpus_holds(self, tmp_path: Path) -> None:
        short = corpus(write(tmp_path / "a.txt", "a cat\na dog\n"))
        long = corpus(
            write(tmp_path / "b.jsonl", '{"prompt": "a cat", "n": 1}\n{"prompt": "a dog"}\n{"prompt": "x"}\n')
        )
        assert [row.id for row in long.rows(0, 2)] == [row.id for row in short.rows()]


class TestText:
    def test_one_prompt_a_line(self, tmp_path: Path) -> None:
        opened = corpus(write(tmp_path / "p.txt", "a cat\n  two  spaces \na dog"))
        assert prompts(opened) == ["a cat", "  two  spaces ", "a dog"]
        assert opened.size == 3
        assert opened.extra_schema.names == []

    def test_a_line_without_end_is_not_read_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "MAX_LINE", 1000)
        assert corpus(write(tmp_path / "a.txt", "x" * 998 + "\n" + "y" * 999)).size == 2
        with pytest.raises(UserError, match=r"b\.txt: line 2: has 1000 bytes or more; write one prompt a line"):
            corpus(write(tmp_path / "b.txt", "a cat\n" + "x" * 5000))

    @pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \n"])
    def test_byte_order_mark_windows_ends_and_blank_end_do_not_matter(self, tmp_path: Path, end: bytes) -> None:
        plain = corpus(write(tmp_path / "a.txt", "a cat\nein Bär"))
        decorated = corpus(write(tmp_path / "b.txt", b"\xef\xbb\xbfa cat\r\n" + "ein Bär".encode() + end))
        assert prompts(decorated) == prompts(plain)
        assert decorated.digest == plain.digest

    def test_unicode_line_separators_do_not_end_a_line(self, tmp_path: Path) -> None:
        assert prompts(corpus(write(tmp_path / "p.txt", "a\u2028cat\n"))) == ["a\u2028cat"]

    def test_size_takes_the_first_and_reads_no_further(self, tmp_path: Path) -> None:
        source = write(tmp_path / "p.txt", b"a cat\na dog\n\xff\n")
        assert prompts(corpus(source, size=2)) == ["a cat", "a dog"]


class TestGrammars:
    @pytest.mark.parametrize("name", grammar.GRAMMARS)
    def test_give_the_seeds_prompts(self, name: str) -> None:
        expected = [str(scene) for scene in islice(grammar.prompts(name, 3), 20)]
        assert prompts(corpus(f"embedded/{name}", size=20, seed=3)) == expected
        assert prompts(corpus(f"embedded/{name}", size=20, seed=4)) != expected


class TestColumns:
    def test_json_values_keep_their_types(self, tmp_path: Path) -> None:
        rows = [
            {"prompt": "a cat", "n": 1, "x": 1, "ok": True, "tags": ["a", "b"], "meta": {"k": 1}},
            {"prompt": "a dog", "x": 0.5, "tags": [], "meta": {"other": "v"}},
        ]
        opened = corpus(write(tmp_path / "p.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
        assert dict(zip(opened.extra_schema.names, opened.extra_schema.types, strict=True)) == {
            "n": pa.int64(),
            "x": pa.float64(),
            "ok": pa.bool_(),
            "tags": pa.list_(pa.string()),
            "meta": pa.struct([("k", pa.int64()), ("other", pa.string())]),
        }
        first, second = (row.extra for row in opened.rows())
        assert first == {"n": 1, "x": 1.0, "ok": True, "tags": ["a", "b"], "meta": {"k": 1, "other": None}}
        assert second == {"n": None, "x": 0.5, "ok": None, "tags": [], "meta": {"k": None, "other": "v"}}

    def test_types_may_widen_late_in_a_file(self, tmp_path: Path) -> None:
        rows = [{"prompt": "a", "n": 2**53 + 1}] * 1500 + [{"prompt": "b", "n": 0.5, "late": "x"}]
        opened = corpus(write(tmp_path / "p.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
        extras = [row.extra for row in opened.rows()]
        assert extras[0] == {"n": float(2**53), "late": None}
        assert extras[-1] == {"n": 0.5, "late": "x"}

    def test_csv_cells_get_the_narrowest_type_that_holds_all(self, tmp_path: Path) -> None:
        source = tmp_path / "p.csv"
        header = ["zip", "prompt", "n", "x", "ok", "note", "void"]
        cells = [["007", "a, b\n“c”", "1", "1", "true", "", ""], ["010", "d", "", "2.5e1", "False", "12a", ""]]
        with source.open("w", newline="") as file:
            csv.writer(file).writerows([header, *cells])
        opened = corpus(source)
        assert opened.extra_schema.types == [pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.string(), pa.null()]
        assert prompts(opened) == ["a, b\n“c”", "d"]
        assert [row.extra for row in opened.rows()] == [
            {"zip": "007", "n": 1, "x": 1.0, "ok": True, "note": None, "void": None},
            {"zip": "010", "n": None, "x": 25.0, "ok": False, "note": "12a", "void": None},
        ]

    def test_parquet_types_pass_and_storage_forms_become_plain(self, tmp_path: Path) -> None:
        table = pa.table(
            {
                "caption": pa.array(["a cat", "a dog"], pa.large_string()),
                "kind": pa.array(["x", "y"]).dictionary_encode(),
                "when": pa.array([datetime(2026, 1, 2), None], pa.timestamp("us")),
                "day": pa.array([date(2026, 1, 2), None]),
                "price": pa.array([Decimal("1.10"), None]),
                "box": pa.array([[1, 2], [3, 4]], pa.list_(pa.int16(), 2)),
                "deep": pa.array([[{"a": [1]}], []], pa.large_list(pa.struct([("a", pa.list_(pa.int8()))]))),
            }
        )
        pq.write_table(table, tmp_path / "p.parquet", row_group_size=1)
        opened = corpus(tmp_path / "p.parquet", column="caption")
        assert prompts(opened) == ["a cat", "a dog"]
        assert opened.extra_schema.field("kind").type == pa.string()
        assert opened.extra_schema.field("deep").type == pa.list_(pa.struct([("a", pa.list_(pa.int8()))]))
        assert next(opened.rows()).extra == {
            "kind": "x",
            "when": datetime(2026, 1, 2),
            "day": date(2026, 1, 2),
            "price": Decimal("1.10"),
            "box": [1, 2],
            "deep": [{"a": [1]}],
        }

    def test_sources_are_joined_and_their_columns_united(self, tmp_path: Path) -> None:
        write(tmp_path / "a.csv", "prompt,n\na cat,1\n")
        write(tmp_path / "b.jsonl", '{"prompt": "a dog", "n": 0.5, "m": "x"}\n')
        sections: list[dict[str, str | int]] = [{"source": str(tmp_path / name)} for name in ("a.csv", "b.jsonl")]
        sections.append({"source": "embedded/simple", "size": 2})
        opened = open_corpus(RunConfig.model_validate({"corpus": sections}))
        rows = list(opened.rows())
        assert [row.index for row in rows] == [0, 1, 2, 3]
        assert [row.extra for row in rows] == [
            {"n": 1.0, "m": None},
            {"n": 0.5, "m": "x"},
            {"n": None, "m": None},
            {"n": None, "m": None},
        ]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("rows")
    lines = "".join(json.dumps({"prompt": f"prompt {n}", "n": n}) + "\n" for n in range(2500))
    sections = [{"source": str(write(folder / "a.jsonl", lines)), "size": size} for size in (2100, 3, 2500)]
    return open_corpus(RunConfig.model_validate({"corpus": sections}))


SUBJECTS = [("a cat and a Red  car", ["red car", "cat"]), ("a dog", None), ("a dog", ["dog", "cow"])]


class TestSubjects:
    """Listed in a column, as text with commas or as lists."""

    @pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet"])
    def test_must_be_in_their_prompt_where_the_method_looks_for_them_there(self, tmp_path: Path, name: str) -> None:
        columns = {"prompt": [prompt for prompt, _ in SUBJECTS], "things": [things for _, things in SUBJECTS]}
        if name.endswith("parquet"):
            pq.write_table(pa.table(columns), tmp_path / name)
        elif name.endswith("csv"):
            text = "".join(f'{prompt},"{",".join(things or [])}"\n' for prompt, things in SUBJECTS)
            write(tmp_path / name, f"prompt,things\n{text}")
        else:
            text = "".join(json.dumps({"prompt": prompt, "things": things}) + "\n" for prompt, things in SUBJECTS)
            write(tmp_path / name, text)
        section = {"source": str(tmp_path / name), "subjects": "things"}
        found = [row.subjects for row in corpus(**section).rows()]
        assert found == [tuple(things or ()) for _, things in SUBJECTS]
        asked = {"corpus": section | {"size": 2}, "optimizer": {"method": "initno"}}
        assert open_corpus(RunConfig.model_validate(asked)).size == 2
        with pytest.raises(UserError, match=r"p\.\w+: (line 4|line 3|row 3): corpus.subjects: 'cow' does not occur"):
            open_corpus(RunConfig.model_validate(asked | {"corpus": section}))

    def test_of_another_type_are_refused_first(self, tmp_path: Path) -> None:
        source = write(tmp_path / "p.jsonl", '{"prompt": "a cat", "things": [1]}\n')
        asked = {"corpus": {"source": str(source), "subjects": "things"}, "optimizer": {"method": "initno"}}
        with pytest.raises(UserError, match="holds list<"):
            open_corpus(RunConfig.model_validate(asked))


class TestRows:
    @given(st.integers(0, 4700), st.one_of(st.none(), st.integers(0, 4700)))
    @settings(max_examples=25)
    def test_any_stretch_equals_that_stretch_of_all(self, opened: Corpus, start: int, stop: int | None) -> None:
        expected = [*range(2100), *range(3), *range(2500)][start:stop]
        rows = list(opened.rows(start, stop))
        assert [row.extra["n"] for row in rows] == expected
        assert [row.index for row in rows] == list(range(start, start + len(expected)))
        assert all(row.prompt == f"prompt {row.extra['n']}" for row in rows)

    @given(st.sets(st.integers(0, 4602)), st.integers(0, 4602), st.integers(0, 4602))
    @settings(max_examples=25)
    def test_rows_to_skip_are_left_out(self, opened: Corpus, some: set[int], first: int, last: int) -> None:
        skip = some | set(range(first, last))
        rows = list(opened.rows(skip=skip))
        assert [row.index for row in rows] == [index for index in range(4603) if index not in skip]
        expected = [*range(2100), *range(3), *range(2500)]
        assert all(row.extra["n"] == expected[row.index] for row in rows)


class TestChangesSinceOpening:
    LINES = tuple(json.dumps({"prompt": f"prompt {n}", "n": n}) + "\n" for n in range(3000))

    def given(self, opened: Corpus, how: str) -> int:
        """How many rows are given before the change is noticed; each of them is as it was."""
        given: list[str] = []
        prompts = (row.prompt for row in opened.rows())
        with pytest.raises(RunError, match=rf"corpus\.source: .* has changed since the run began \(.*{how}") as caught:
            given.extend(prompts)
        assert "\n" not in str(caught.value)
        assert given == [f"prompt {n}" for n in range(len(given))]
        return len(given)

    @pytest.mark.parametrize(
        ("lines", "how", "given"),
        [
            (LINES[:2000], "differs at line 1025 or after", 1024),
            (LINES[:2048], "is shorter", 2048),
            (LINES[1:], "differs at line 1 or after", 0),
            ((*LINES[:1500], LINES[0], *LINES[1501:]), "differs at line 1025 or after", 1024),
            ((*LINES[:2998], LINES[2998].replace("2998}", "29.98}"), LINES[2999]), "differs at line 2049", 2048),
            ((*LINES[:2500], "{\n", *LINES[2501:]), "line 2501: is not valid JSON", 2048),
        ],
    )
    def test_no_row_of_a_changed_batch_is_given(
        self, tmp_path: Path, lines: tuple[str, ...], how: str, given: int
    ) -> None:
        source = write(tmp_path / "p.jsonl", "".join(self.LINES))
        opened = corpus(source)
        write(source, "".join(lines))
        assert self.given(opened, how) == given

    def test_lines_added_at_the_end_are_not_read(self, tmp_path: Path) -> None:
        source = write(tmp_path / "p.jsonl", "".join(self.LINES))
        opened = corpus(source)
        write(source, "".join((*self.LINES, self.LINES[0])))
        assert len(prompts(opened)) == 3000

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        source = write(tmp_path / "p.txt", "prompt 0\n")
        opened = corpus(source)
        source.unlink()
        assert self.given(opened, r"cannot be read: .*No such file") == 0

    def test_another_parquet_file(self, tmp_path: Path) -> None:
        path = tmp_path / "p.parquet"
        pq.write_table(pa.table({"prompt": ["prompt 0", "prompt 1"], "n": [0, 1]}), path)
        opened = corpus(path)
        pq.write_table(pa.table({"prompt": ["prompt 0", "prompt 1"], "n": [0, 2]}), path)
        assert self.given(opened, "differs at row 1 or after") == 0


class TestDigest:
    BASE = ({"prompt": "a cat", "n": 1}, {"prompt": "a dog", "n": 2})

    def digest(self, folder: Path, rows: Any, name: str = "p.jsonl") -> str:
        return corpus(write(folder / name, "".join(json.dumps(row) + "\n" for row in rows))).digest

    def test_is_that_of_the_content_not_the_file(self, tmp_path: Path) -> None:
        spaced = write(tmp_path / "q.jsonl", '{"n":1, "prompt":"a cat"}\r\n{"prompt":"a dog",  "n":2}\n\n')
        assert corpus(spaced).digest == self.digest(tmp_path, self.BASE)

    @pytest.mark.parametrize(
        "rows",
        [
            BASE[::-1],
            BASE[:1],
            (*BASE, BASE[0]),
            ({"prompt": "a cat", "n": 1}, {"prompt": "a dog", "n": 3}),
            ({"prompt": "a cat", "n": 1}, {"prompt": "a dog"}),
            ({"prompt": "a cat", "m": 1}, {"prompt": "a dog", "m": 2}),
            ({"prompt": "a cat", "n": 1.0}, {"prompt": "a dog", "n": 2.0}),
        ],
    )
    def test_differs_with_prompts_order_columns_and_types(self, tmp_path: Path, rows: Any) -> None:
        assert self.digest(tmp_path, rows, "other.jsonl") != self.digest(tmp_path, self.BASE)

    def test_prompts_do_not_run_together(self, tmp_path: Path) -> None:
        first = self.digest(tmp_path, [{"prompt": "ab"}, {"prompt": "c"}])
        assert first != self.digest(tmp_path, [{"prompt": "a"}, {"prompt": "bc"}])

    def test_absent_and_null_are_the_same(self, tmp_path: Path) -> None:
        first = self.digest(tmp_path, [{"prompt": "a"}] * 1500 + [{"prompt": "b", "n": 1}])
        assert first == self.digest(tmp_path, [{"prompt": "a", "n": None}] * 1500 + [{"prompt": "b", "n": 1}])


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
        with pytest.raises(UserError, match=r"column 'photo' holds binary data, .*remove that column"):
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
        with pytest.raises(UserError, match=r"cannot be opened as a dataset \(.*Invalid value"):
            corpus(folder)
        assert capfd.readouterr().err == ""

    def test_a_folder_of_everything_is_no_dataset(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The library would look at every file below it."""
        monkeypatch.setattr(tabular, "MAX_FILES", 3)
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


REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "empty file": ("p.txt", "", r"p\.txt: holds no prompts"),
    "blank lines alone": ("p.txt", "\n \n", r"holds no prompts"),
    "blank line inside": ("p.txt", "a cat\n\na dog\n", r"p\.txt: line 2: is blank"),
    "white line inside": ("p.txt", "a cat\na dog\n \t\nx\n", r"line 3: is blank"),
    "latin-1": ("p.txt", b"a cat\nein B\xe4r\n", r"line 2: is not UTF-8 at byte 6; save the file as UTF-8"),
    "utf-16": ("p.txt", "a cat".encode("utf-16"), r"line 1: is not UTF-8 at byte 1"),
    "NUL": ("p.txt", "a cat\na\0dog\n", r"line 2: the prompt holds the control character U\+0000"),
    "escape": ("p.txt", "\x1b[31ma cat\n", r"control character U\+001B"),
    "mac line ends": ("p.txt", "a cat\ra dog\r", r"control character U\+000D"),
    "long prompt": ("p.txt", "a cat\n" + "x" * 10_000, r"line 2: .* has 10000 characters, above max_prompt_chars=2000"),
    "json array": ("p.json", '[{"prompt": "a"}]', r"line 1: holds no JSON object; write one object a line"),
    "bad json": ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"line 2: is not valid JSON \(.*\); write one object"),
    "deep json": ("p.jsonl", '{"prompt":' + "[" * 100_000, r"line 1: cannot be read as JSON"),
    "huge json number": ("p.jsonl", '{"prompt": "a", "n": ' + "1" * 5000 + "}", r"line 1: cannot be read as JSON"),
    "wide json number": ("p.jsonl", '{"prompt": "a", "n": 9223372036854775808}', r"'n' .* does not fit 64 bits"),
    "surrogate": ("p.jsonl", r'{"prompt": "a \ud800"}', r"line 1: .*half a surrogate pair"),
    "surrogate beside": ("p.jsonl", r'{"prompt": "a", "n": "\ud800"}', r"'n' .*not valid Unicode"),
    "surrogate name": ("p.jsonl", r'{"prompt": "a", "\ud800": 1}', r"column name '\\ud800' is .* no plain text"),
    "empty json prompt": ("p.jsonl", '{"prompt": "a"}\n{"prompt": " "}\n', r"line 2: the prompt is empty"),
    "null prompt": ("p.jsonl", '{"prompt": null}\n', r"line 1: has no prompt"),
    "number prompt": ("p.jsonl", '{"prompt": 7}\n', r"line 1: the prompt is 7, but must be text"),
    "missing column": ("p.jsonl", '{"prompts": "a", "n": 1}\n', r"no column 'prompt' but 'prompts', 'n'; did you mean"),
    "no column at all": ("p.jsonl", "{}\n", r"has no column 'prompt', nor any other"),
    "mixed types": (
        "p.jsonl",
        '{"prompt": "a", "n": 1}\n{"prompt": "b", "n": "x"}\n',
        r"column 'n' has no single type",
    ),
    "late mixed types": (
        "p.jsonl",
        '{"prompt": "a", "n": 1}\n' * 2048 + '{"prompt": "b", "n": "x"}\n',
        r"column 'n' has no single type \(int64 in one place and string in another\)",
    ),
    "empty objects": ("p.jsonl", '{"prompt": "a", "n": {}}\n', r"column 'n' holds empty objects"),
    "output column": ("p.jsonl", '{"prompt": "a", "score": 1}\n', r"column 'score' is one that the run .*; rename it"),
    "first image column": ("p.csv", "prompt,image_initial\na,b\n", r"column 'image_initial' is one that the run"),
    "csv without header": ("p.csv", "", r"has no header line"),
    "csv without column": ("p.csv", "caption,n\na,1\n", r"has no column 'prompt' but 'caption', 'n'"),
    "csv header alone": ("p.csv", "prompt,n\n", r"holds no prompts"),
    "csv column twice": ("p.csv", "prompt,n,n\na,1,2\n", r"names column 'n' twice"),
    "csv nameless column": ("p.csv", ",prompt\n0,a\n", r"column name '' is empty"),
    "ragged csv": ("p.csv", "prompt,n\na cat,1\na dog\n", r"line 3: has 1 cell where the header has 2"),
    "open quote": ("p.csv", 'prompt,n\n"a cat,1\n', r"line 2: is not valid CSV"),
    "csv empty prompt": ("p.csv", "prompt,n\na,1\n,2\n", r"line 3: the prompt is empty"),
    "csv blank line": ("p.csv", "prompt\na\n\nb\n", r"line 3: is blank"),
    "csv latin-1": ("p.csv", b"prompt\nB\xe4r\n", r"line 2: is not UTF-8"),
    "csv control": ("p.csv", "prompt\na\x07b\n", r"line 2: .*U\+0007"),
    "corrupt parquet": ("p.parquet", b"PAR1 no PAR1", r"is not a readable Parquet file"),
    "unknown extension": ("p.xlsx", "a cat", r"has no known extension; use one of \.csv, "),
    "no extension": ("prompts", "a cat", r"has no known extension"),
}


class TestRefusals:
    @pytest.mark.parametrize("name", REFUSED)
    def test_one_sentence_names_file_and_place(self, tmp_path: Path, name: str) -> None:
        file, content, message = REFUSED[name]
        source = write(tmp_path / file, content)
        with pytest.raises(UserError, match=message) as caught:
            corpus(source)
        assert str(source) in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("missing.txt", r"missing\.txt: no such file; check the path"),
            ("./prompts", r"no such file"),
            ("a/b/c", r"no such file"),
            ("x" * 300 + "/y.txt", r"cannot be opened|no such file"),
            ("~no-such-user-here/p.txt", r"cannot be opened|no such file"),
            ("nul\0.txt", r"no such file"),
            ("embedded/rhymes", r"no grammar 'embedded/rhymes'; choose embedded/simple or embedded/complex"),
            ("/dev/null", r"is not a regular file"),
        ],
    )
    def test_sources_that_cannot_be_opened(self, source: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            corpus(source, size=1)

    def test_more_rows_than_there_are(self, tmp_path: Path) -> None:
        source = write(tmp_path / "p.txt", "a\nb\n")
        with pytest.raises(UserError, match=r"corpus\.size: asks for 3 rows, but .*p\.txt has 2"):
            corpus(source, size=3)
        sections = [{"source": str(source), "size": 2}, {"source": str(source), "size": 3}]
        with pytest.raises(UserError, match=r"corpus\.1\.size: asks for 3"):
            open_corpus(RunConfig.model_validate({"corpus": sections}))

    @pytest.mark.parametrize("name", ["p.csv", "p.parquet", "folder"])
    def test_a_path_with_a_colon_is_no_url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.chdir(tmp_path)
        path = Path("s3:x", name)
        path.parent.mkdir()
        data = datasets.Dataset.from_dict({"prompt": ["a cat"]})
        {"p.csv": data.to_csv, "p.parquet": data.to_parquet, "folder": data.save_to_disk}[name](path.absolute())
        assert prompts(corpus(path)) == ["a cat"]

    @pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.jsonl"])
    def test_a_file_that_may_not_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        source = write(tmp_path / name, "a cat\n")

        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(UserError, match=rf"corpus\.source: .*{name}: cannot be read: Permission denied"):
            corpus(source)

    def test_parquet_columns_and_cells(self, tmp_path: Path) -> None:
        path = tmp_path / "p.parquet"
        for table, message in (
            ({"prompt": [1, 2]}, r"column 'prompt' holds int64 values, but prompts must be text"),
            ({"prompt": ["a", None]}, r"row 2: has no prompt"),
            ({"prompt": ["a", "b"], "raw": [b"x", b"y"]}, r"column 'raw' holds binary data"),
            ({"text": ["a"]}, r"has no column 'prompt' but 'text'"),
            ({"prompt": pa.array([], pa.string())}, r"holds no prompts"),
            ({"prompt": ["a"], "m": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8()))}, r"'m' holds map<"),
        ):
            pq.write_table(pa.table(table), path)
            with pytest.raises(UserError, match=message):
                corpus(path)

    @pytest.mark.parametrize(
        "values", [pa.array([b"a", b"\xff"]).view(pa.string()), pa.array([0, 2**62]).cast(pa.timestamp("us"))]
    )
    def test_parquet_values_that_have_no_python_value(self, tmp_path: Path, values: pa.Array) -> None:
        path = tmp_path / "p.parquet"
        pq.write_table(pa.table({"prompt": ["a cat", "a dog"], "x": values}), path)
        with pytest.raises(UserError, match=r"holds a value at row 1 or after that cannot be read \(.+\); write"):
            corpus(path)

    def test_damage_in_the_middle_of_a_parquet_file(self, tmp_path: Path) -> None:
        path = tmp_path / "p.parquet"
        pq.write_table(pa.table({"prompt": [f"a cat {n}" for n in range(5000)]}), path, compression="zstd")
        content = bytearray(path.read_bytes())
        content[100:2000] = bytes(1900)
        write(path, bytes(content))
        with pytest.raises(UserError, match="is not a readable Parquet file"):
            corpus(path)

    def test_columns_of_two_sources_that_cannot_be_united(self, tmp_path: Path) -> None:
        first = write(tmp_path / "a.csv", "prompt,n\na cat,1\n")
        second = write(tmp_path / "b.csv", "prompt,n\na dog,x\n")
        sections = [{"source": str(path)} for path in (first, second)]
        with pytest.raises(UserError, match=r"b\.csv: column 'n' has no single type"):
            open_corpus(RunConfig.model_validate({"corpus": sections}))

    def test_a_judges_column_is_reserved(self, tmp_path: Path) -> None:
        source = write(tmp_path / "p.csv", "prompt,judge_clip\na cat,1\n")
        assert corpus(source).extra_schema.names == ["judge_clip"]
        judged = {"corpus": {"source": str(source)}, "judges": [{"name": "clip", "model": "m"}]}
        with pytest.raises(UserError, match="column 'judge_clip' is one that the run itself writes"):
            open_corpus(RunConfig.model_validate(judged))


@given(st.binary(max_size=200), st.sampled_from(["p.txt", "p.csv", "p.jsonl", "p.parquet"]))
@FILES_ONCE
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, name: str) -> None:
    source = write(tmp_path / name, content)
    try:
        opened = corpus(source)
    except UserError:
        return
    assert len(list(opened.rows())) == opened.size
