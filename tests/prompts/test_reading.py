"""What is read from a corpus: ids, prompts, the types of columns, subjects."""

from __future__ import annotations

import hashlib
import json
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.embedded import grammar
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import files, open_corpus
from noisesmith.pipeline.records import index_of, row_id
from tests.prompts.corpora import FILES_ONCE, PROMPT_TEXT, corpus, prompts, write


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
        monkeypatch.setattr(files, "MAX_LINE", 1000)
        assert corpus(write(tmp_path / "a.txt", "x" * 998 + "\n" + "y" * 999)).size == 2
        with pytest.raises(UserError, match=r"b\.txt: line 2: has 1000 bytes or more; write one prompt per line"):
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
        rows = [{"prompt": "a", "n": 2**53}] * 1500 + [{"prompt": "b", "n": 0.5, "late": "x"}]
        opened = corpus(write(tmp_path / "p.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
        extras = [row.extra for row in opened.rows()]
        assert extras[0] == {"n": float(2**53), "late": None}
        assert extras[-1] == {"n": 0.5, "late": "x"}

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
