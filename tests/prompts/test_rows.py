"""Rows of an opened corpus in any stretch, what happens when a source has changed, and the digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import RunError
from noisesmith.pipeline.prompts import Corpus, open_corpus
from tests.prompts.corpora import corpus, prompts, write


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("rows")
    lines = "".join(json.dumps({"prompt": f"prompt {n}", "n": n}) + "\n" for n in range(2500))
    sections = [{"source": str(write(folder / "a.jsonl", lines)), "size": size} for size in (2100, 3, 2500)]
    return open_corpus(RunConfig.model_validate({"corpus": sections}))


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
        with pytest.raises(RunError, match=rf"corpus\.source: .* has changed since the run began \(.*{how}") as caught:
            given.extend(row.prompt for row in opened.rows())
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
