"""Files in other forms: other delimiters, compressed, misnamed, or not the file they should be."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from noisesmith.pipeline.errors import UserError
from tests.prompts.corpora import corpus, prompts, write

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def _zstd(content: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(content, asbytes=True)
    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": _zstd,
}
CONTENTS = {
    "p.txt": "a cat\na dog\n",
    "p.csv": "prompt,n\na cat,1\na dog,2\n",
    "p.tsv": "prompt\tn\na cat\t1\na dog\t2\n",
    "p.jsonl": '{"prompt": "a cat", "n": 1}\n{"prompt": "a dog", "n": 2}\n',
    "p.json": '["a cat", "a dog"]',
}


class TestDelimiters:
    @pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.CSV"])
    @pytest.mark.parametrize(
        ("delimiter", "plural"), [(",", "commas"), ("\t", "tabs"), (";", "semicolons"), ("|", "bars")]
    )
    def test_are_found_in_the_header_and_reported(self, tmp_path: Path, name: str, delimiter: str, plural: str) -> None:
        text = f'prompt{delimiter}tag\n"a cat, a dog; a bird|x"{delimiter}1\na cow{delimiter}2\n'
        opened = corpus(write(tmp_path / name, text))
        assert [(row.prompt, row.extra) for row in opened.rows()] == [
            ("a cat, a dog; a bird|x", {"tag": 1}),
            ("a cow", {"tag": 2}),
        ]
        assert plural in opened.sections[0][2]

    @pytest.mark.parametrize("hint", ["sep=;", '"sep=;"', "\ufeffsep=;"])
    def test_may_be_given_in_a_first_line_as_for_excel(self, tmp_path: Path, hint: str) -> None:
        (row,) = corpus(write(tmp_path / "p.csv", f"{hint}\r\nprompt;tag\r\na cat, a dog;x\r\n")).rows()
        assert (row.prompt, row.extra) == ("a cat, a dog", {"tag": "x"})

    def test_a_column_is_not_suggested_that_holds_several(self, tmp_path: Path) -> None:
        source = write(tmp_path / "p.csv", "prompt;tag\na cat;x\n")
        with pytest.raises(UserError, match=r"has no column 'prompt;tag' but 'prompt', 'tag'"):
            corpus(source, column="prompt;tag")

    @pytest.mark.parametrize("cell", ['"O P E N" in paint', 'say "hi"', '"', 'a "b'])
    def test_quotes_of_a_tsv_that_do_not_pair_are_text(self, tmp_path: Path, cell: str) -> None:
        opened = corpus(write(tmp_path / "p.tsv", f"prompt\ttag\na cat\t{cell}\n{cell}\tx\n"))
        assert [(row.prompt, row.extra["tag"]) for row in opened.rows()] == [("a cat", cell), (cell, "x")]

    def test_an_index_without_a_name_is_called_as_pandas_calls_it(self, tmp_path: Path) -> None:
        opened = corpus(write(tmp_path / "p.csv", ",prompt\n0,a cat\n1,a dog\n"))
        assert [row.extra for row in opened.rows()] == [{"Unnamed: 0": 0}, {"Unnamed: 0": 1}]

    def test_a_cell_may_be_larger_than_128_kib(self, tmp_path: Path) -> None:
        big = "x" * 300_000
        opened = corpus(write(tmp_path / "p.csv", f"prompt,thumbnail\na cat,{big}\n"))
        assert next(opened.rows()).extra == {"thumbnail": big}

    def test_a_repeated_header_is_refused(self, tmp_path: Path) -> None:
        """Files that were joined have one."""
        with pytest.raises(UserError, match=r"p\.csv: line 3: repeats the header; remove the line"):
            corpus(write(tmp_path / "p.csv", "prompt,n\na cat,1\nprompt,n\na dog,2\n"))


class TestCompression:
    @pytest.mark.parametrize("extension", PACKERS)
    @pytest.mark.parametrize("name", CONTENTS)
    def test_does_not_matter(self, tmp_path: Path, name: str, extension: str) -> None:
        content = CONTENTS[name].encode()
        plain = corpus(write(tmp_path / name, content))
        packed = write(tmp_path / f"{name}{extension}", PACKERS[extension](content))
        assert corpus(packed).digest == plain.digest
        assert corpus(packed.rename(tmp_path / f"unmarked-{name}")).digest == plain.digest

    @pytest.mark.parametrize("extension", PACKERS)
    def test_a_file_that_is_cut_short_is_refused(self, tmp_path: Path, extension: str) -> None:
        lines = "".join(f"a cat {number}\n" for number in range(20_000)).encode()
        packed = PACKERS[extension](lines)
        for size in (len(packed) // 2, 12):
            with pytest.raises(UserError, match=r"p\.txt\.\w+: (is damaged|cannot be read)") as caught:
                corpus(write(tmp_path / f"p.txt{extension}", packed[:size]))
            assert "\n" not in str(caught.value)


STAND_INS: dict[str, tuple[str | bytes, str]] = {
    "pointer of Git LFS": (LFS, r"is a Git LFS pointer, .*git lfs pull"),
    "pointer of git-annex": ("/annex/objects/SHA256E-s3--ab.csv\n", r"is a git-annex pointer, .*git annex get"),
    "error page": ("\n<!DOCTYPE html>\n<html><body>Not Found</body></html>\n", r"is an HTML or XML page"),
    "answer of a store": ("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", r"is an HTML or XML page"),
    "error text": ("404: Not Found", r"is the error text '404: Not Found' of a failed download"),
    "archive": (b"PK\x03\x04\x14\x00", r"is a ZIP archive"),
}
MISNAMED: dict[str, tuple[str, str]] = {
    "TSV": ("Prompt\tCategory\na cat\tAnimals\n", r"columns separated by tabs, .*extension \.tsv"),
    "TSV without a known name": ("Satz\tThema\na cat\tAnimals\n", r"columns separated by tabs"),
    "CSV": ('prompt,tag\n"a cat, a dog",x\n', r"columns separated by commas, .*extension \.csv"),
    "ragged CSV": ("tag,caption\nx,a cat, a dog\n", r"columns separated by commas"),
    "semicolons": ("id;prompt\n1;a cat\n", r"columns separated by semicolons"),
    "one column": ("Prompts\na cat\n", r"line 1: 'Prompts' seems to be a header"),
    "JSON lines": ('{"prompt": "a cat"}\n', r"line 1: holds JSON, .*extension \.jsonl"),
    "JSON list": ('[\n "a cat"\n]\n', r"line 1: holds JSON"),
}


class TestRefusedByContent:
    @pytest.mark.parametrize("name", ["p.txt", "p.csv", "p.tsv", "p.jsonl", "p.json", "p.parquet"])
    @pytest.mark.parametrize("kind", STAND_INS)
    def test_a_file_that_stands_in_for_another(self, tmp_path: Path, name: str, kind: str) -> None:
        content, message = STAND_INS[kind]
        with pytest.raises(UserError, match=message):
            corpus(write(tmp_path / name, content))

    @pytest.mark.parametrize("kind", MISNAMED)
    def test_a_table_or_json_named_as_text(self, tmp_path: Path, kind: str) -> None:
        content, message = MISNAMED[kind]
        with pytest.raises(UserError, match=message):
            corpus(write(tmp_path / "p.txt", content))

    @pytest.mark.parametrize(
        "lines",
        [
            ["a cat, prompt and alert", "a dog"],
            ["portrait, caption, trending", "a dog, oil on canvas"],
            ["a\tcat", "a dog"],
            ["{prompt}", "{"],
            ["<image> a cat", "404 cats"],
        ],
    )
    def test_prompts_with_commas_tabs_and_braces_are_prompts(self, tmp_path: Path, lines: list[str]) -> None:
        assert prompts(corpus(write(tmp_path / "p.txt", "\n".join(lines)))) == lines

    @pytest.mark.parametrize("prompt", ["\u200b", "\ufeff\u200d ", "\u3164", "\u2060\ufe0f", "\u2800", "\U000e0041"])
    def test_an_invisible_prompt(self, tmp_path: Path, prompt: str) -> None:
        with pytest.raises(UserError, match=r"line 2: the prompt is (invisible|empty)"):
            corpus(write(tmp_path / "p.jsonl", f'{{"prompt": "a"}}\n{json.dumps({"prompt": prompt})}\n'))
        visible = f"a{prompt}"
        assert prompts(corpus(write(tmp_path / "q.jsonl", json.dumps({"prompt": visible})))) == [visible]


class TestByteOrderMarks:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("p.txt", "\ufeffa cat\n\ufeffa dog\n"),
            ("p.csv", '\ufeffprompt\na cat\n\ufeff"a dog"\n'),
            ("p.jsonl", '\ufeff{"prompt": "a cat"}\n\ufeff{"prompt": "a dog"}\n'),
            ("p.json", '\ufeff[{"prompt": "a cat"},\n{"prompt": "a dog"}]'),
        ],
    )
    def test_are_removed_where_a_line_begins(self, tmp_path: Path, name: str, text: str) -> None:
        assert prompts(corpus(write(tmp_path / name, text))) == ["a cat", "a dog"]

    def test_within_a_quoted_cell_they_are_text(self, tmp_path: Path) -> None:
        opened = corpus(write(tmp_path / "p.csv", 'prompt,n\na cat,"x\n\ufeffy"\n'))
        assert next(opened.rows()).extra == {"n": "x\n\ufeffy"}


class TestJson:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                {"a": [{"prompt": "x"}], "b": [{"prompt": "y"}]},
                r"several of its lists have the column 'prompt' \(a, b\)",
            ),
            ({"a": [{"text": "x"}]}, r"none of whose lists holds objects with the column 'prompt'"),
            (["a cat", 3], r"item 2: is neither an object nor a text"),
            ([{"prompt": "a cat"}, {"text": "x"}], r"item 2: has no column 'prompt' but 'text'"),
            (["a cat", " "], r"item 2: the prompt is empty"),
        ],
    )
    def test_documents_are_refused_by_item(self, tmp_path: Path, content: Any, message: str) -> None:
        for indent in (None, 1):
            with pytest.raises(UserError, match=message):
                corpus(write(tmp_path / "p.json", json.dumps(content, indent=indent)))

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"prompt": "a cat", "n": 1, "n": 2}', r"line 1: .*key 'n' is there twice"),
            ('{"prompt": "a cat", "n": 1e999}', r"line 1: .*1e999 is too large for a float64"),
        ],
    )
    def test_no_value_is_lost_in_silence(self, tmp_path: Path, line: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            corpus(write(tmp_path / "p.jsonl", f"{line}\n"))

    @pytest.mark.parametrize(
        "values", [[1, "x"], [{}, {}], [2**64, 1], [[1, "a"], [2]], [True, 1], [2**53 + 1, 0.5], [1, "\ud800"]]
    )
    def test_what_has_no_single_type_is_json_text(self, tmp_path: Path, values: list[Any]) -> None:
        """Also where that shows only in a later batch."""
        rows = [*values, *[values[0]] * 1100, values[1]]
        lines = "".join(json.dumps({"prompt": "a cat", "x": value}) + "\n" for value in rows)
        opened = corpus(write(tmp_path / "p.jsonl", lines))
        assert opened.as_json == ("x",)
        assert [json.loads(str(row.extra["x"])) for row in opened.rows()] == rows
