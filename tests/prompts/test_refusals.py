"""What a corpus is refused for, with which sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import open_corpus
from tests.prompts.corpora import FILES_ONCE, corpus, prompts, write

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
    "bad json": ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"line 2: is not valid JSON \(.*\); write one object"),
    "deep json": ("p.jsonl", '{"prompt":' + "[" * 100_000, r"line 1: cannot be read as JSON"),
    "huge json number": ("p.jsonl", '{"prompt": "a", "n": ' + "1" * 5000 + "}", r"line 1: cannot be read as JSON"),
    "surrogate": ("p.jsonl", r'{"prompt": "a \ud800"}', r"line 1: .*half a surrogate pair"),
    "surrogate next to it": ("p.jsonl", r'{"prompt": "a", "n": "\ud800"}', r"'n' .*not valid Unicode"),
    "surrogate name": ("p.jsonl", r'{"prompt": "a", "\ud800": 1}', r"column name '\\ud800' is .* no plain text"),
    "empty json prompt": ("p.jsonl", '{"prompt": "a"}\n{"prompt": " "}\n', r"line 2: the prompt is empty"),
    "null prompt": ("p.jsonl", '{"prompt": null}\n', r"line 1: has no prompt"),
    "number prompt": ("p.jsonl", '{"prompt": 7}\n', r"line 1: the prompt is 7, but must be text"),
    "missing column": ("p.jsonl", '{"prompts": "a", "n": 1}\n', r"no column 'prompt' but 'prompts', 'n'; did you mean"),
    "no column at all": ("p.jsonl", "{}\n", r"has no column 'prompt', nor any other"),
    "output column": ("p.jsonl", '{"prompt": "a", "score": 1}\n', r"column 'score' is one that the run .*; rename it"),
    "first image column": ("p.csv", "prompt,image_initial\na,b\n", r"column 'image_initial' is one that the run"),
    "csv without header": ("p.csv", "", r"has no header line"),
    "csv without column": ("p.csv", "caption,n\na,1\n", r"has no column 'prompt' but 'caption', 'n'"),
    "csv header alone": ("p.csv", "prompt,n\n", r"holds no prompts"),
    "csv column twice": ("p.csv", "prompt,n,n\na,1,2\n", r"names column 'n' twice"),
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
            ({"prompt": [b"a", b"\xff"]}, r"row 2: the prompt is stored as bytes that are not UTF-8 at byte 1"),
            ({"text": ["a"]}, r"has no column 'prompt' but 'text'"),
            ({"prompt": pa.array([], pa.string())}, r"holds no prompts"),
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
        second = write(tmp_path / "b.jsonl", '{"prompt": "a dog", "n": "x"}\n')
        sections = [{"source": str(path)} for path in (first, second)]
        with pytest.raises(UserError, match=r"b\.jsonl: column 'n' has no single type .*types: {n: string}"):
            open_corpus(RunConfig.model_validate({"corpus": sections}))

    def test_a_judges_column_is_reserved(self, tmp_path: Path) -> None:
        source = write(tmp_path / "p.csv", "prompt,judge_clip\na cat,1\n")
        assert corpus(source).extra_schema.names == ["judge_clip"]
        judged = {"corpus": {"source": str(source)}, "judges": [{"name": "clip", "model": "m"}]}
        with pytest.raises(UserError, match="column 'judge_clip' is one that the run itself writes"):
            open_corpus(RunConfig.model_validate(judged))


ANY_NAME = ("p.txt", "p.csv", "p.tsv", "p.jsonl", "p.json", "p.parquet", "p.txt.gz", "p.csv.zst")
MAGIC = (
    b"",
    b"\x1f\x8b\x08",
    b"BZh9",
    b"\xfd7zXZ\x00",
    b"\x28\xb5\x2f\xfd",
    b"PAR1",
    b"prompt\t",
    b'{"prompt": ',
    b"[",
)


@given(st.builds(bytes.__add__, st.sampled_from(MAGIC), st.binary(max_size=200)), st.sampled_from(ANY_NAME))
@FILES_ONCE
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, name: str) -> None:
    source = write(tmp_path / name, content)
    try:
        opened = corpus(source)
    except UserError:
        return
    assert len(list(opened.rows())) == opened.size
