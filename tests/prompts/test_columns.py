"""``corpus.columns``: which columns are written, under which names and with which types."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts import open_corpus
from tests.prompts.corpora import corpus, write

TABLE = {"prompt": ["a cat", "a dog"], "tag": ["x", "y"], "n": [1, 2]}


@pytest.fixture(params=["p.csv", "p.jsonl", "p.parquet", "saved"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same table in each format."""
    datasets.disable_progress_bars()
    data = datasets.Dataset.from_dict(TABLE)
    path: Path = tmp_path / request.param
    save = {".csv": data.to_csv, ".jsonl": data.to_json, ".parquet": data.to_parquet, "": data.save_to_disk}
    save[path.suffix](str(path))
    return path


class TestChoosing:
    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            ({"keep": ["n"]}, {"n": 2}),
            ({"keep": []}, {}),
            ({"keep": ["n", "prompt"]}, {"n": 2}),
            ({"drop": ["n"]}, {"tag": "y"}),
            ({"rename": {"n": "seed_of_image", "tag": "n"}}, {"n": "y", "seed_of_image": 2}),
            ({"types": {"n": "string"}}, {"tag": "y", "n": "2"}),
            ({"types": {"n": "float64"}, "rename": {"n": "m"}, "drop": ["tag"]}, {"m": 2.0}),
        ],
    )
    def test_of_columns_in_every_format(self, source: Path, columns: dict[str, Any], expected: dict[str, Any]) -> None:
        *_, last = corpus(source, columns=columns).rows()
        assert last.extra == expected

    @pytest.mark.parametrize("field", ["keep", "drop", "rename", "types"])
    def test_a_name_that_is_not_there_is_refused(self, source: Path, field: str) -> None:
        value = {"rename": {"tagg": "x"}, "types": {"tagg": "string"}}.get(field, ["tagg"])
        with pytest.raises(UserError, match=rf"corpus\.columns\.{field}: .* has no column 'tagg'; .*'tag', 'n'"):
            corpus(source, columns={field: value})

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"drop": ["prompt"]}, "drop names 'prompt', which is the prompt"),
            ({"drop": ["n"], "types": {"n": "int64"}}, "types names 'n', which keep or drop leaves out"),
            ({"rename": {"n": "x", "tag": "x"}}, "rename gives the name 'x' twice"),
            ({"types": {"n": "date"}}, "string"),
            ({"rename": {"n": "\ud800"}}, "half a surrogate pair"),
        ],
    )
    def test_contradictions_are_refused(self, columns: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            RunConfig.model_validate({"corpus": {"source": "p.csv", "columns": columns}})

    def test_subjects_follow_a_new_name(self, tmp_path: Path) -> None:
        path = write(tmp_path / "p.csv", 'prompt,things\na cat and a dog,"cat,dog"\n')
        (row,) = corpus(path, subjects="things", columns={"rename": {"things": "objects"}}).rows()
        assert row.subjects == ("cat", "dog")
        assert row.extra == {"objects": "cat,dog"}


class TestTypes:
    @pytest.mark.parametrize(
        ("cells", "kind", "expected"),
        [
            (["1", "0.5", ""], "float64", [1.0, 0.5, None]),
            (["007", "010", ""], "int64", [7, 10, None]),
            (["true", "FALSE", ""], "bool", [True, False, None]),
            (["1", "2", ""], "string", ["1", "2", None]),
        ],
    )
    def test_of_cells_may_be_given(self, tmp_path: Path, cells: list[str], kind: str, expected: list[object]) -> None:
        lines = "".join(f"a cat,{cell}\n" for cell in cells)
        opened = corpus(write(tmp_path / "p.csv", f"prompt,x\n{lines}"), columns={"types": {"x": kind}})
        assert [row.extra["x"] for row in opened.rows()] == expected

    @pytest.mark.parametrize(
        ("kind", "cell"), [("int64", "1.5"), ("int64", str(2**63)), ("float64", "x"), ("bool", "2")]
    )
    def test_a_value_that_does_not_fit_is_named(self, tmp_path: Path, kind: str, cell: str) -> None:
        path = write(tmp_path / "p.csv", f"prompt,x\na cat,\na dog,{cell}\n")
        with pytest.raises(UserError, match=rf"p\.csv: line 3: column 'x' holds '{cell}', which is no \w+ as"):
            corpus(path, columns={"types": {"x": kind}})

    def test_an_empty_text_is_null_only_in_a_table(self, tmp_path: Path) -> None:
        path = write(tmp_path / "p.jsonl", '{"prompt": "a cat", "x": ""}\n')
        assert next(corpus(path, columns={"types": {"x": "string"}}).rows()).extra == {"x": ""}
        with pytest.raises(UserError, match=r"line 1: column 'x' holds '', which is no int64"):
            corpus(path, columns={"types": {"x": "int64"}})

    def test_bytes_can_be_read_as_text(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"prompt": [b"a cat"], "tag": [b"x"]}), tmp_path / "p.parquet")
        (row,) = corpus(tmp_path / "p.parquet").rows()
        assert (row.prompt, row.extra) == ("a cat", {"tag": b"x"})
        (row,) = corpus(tmp_path / "p.parquet", columns={"types": {"tag": "string"}}).rows()
        assert row.extra == {"tag": "x"}

    def test_uuids_maps_and_class_labels_become_text(self, tmp_path: Path) -> None:
        key = uuid.UUID("12345678-1234-5678-1234-567812345678")
        features = datasets.Features(
            {
                "prompt": datasets.Value("string"),
                "style": datasets.ClassLabel(names=["photo", "paint"]),
                "styles": datasets.List(datasets.ClassLabel(names=["photo", "paint"])),
            }
        )
        labelled = {"prompt": ["a", "b", "c"], "style": [1, None, -1], "styles": [[0, 1], [], None]}
        datasets.disable_progress_bars()
        data = datasets.Dataset.from_dict(labelled, features=features)
        data.save_to_disk(tmp_path / "saved")
        data.to_parquet(tmp_path / "labels.parquet")
        for name in ("saved", "labels.parquet"):
            found = [row.extra for row in corpus(tmp_path / name).rows()]
            assert [row["style"] for row in found] == ["paint", None, None]
            assert [row["styles"] for row in found] == [["photo", "paint"], [], None]
        pairs = pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8()))
        ids = pa.array([key.bytes, None], pa.uuid())
        pq.write_table(pa.table({"prompt": ["a", "b"], "m": pairs, "u": ids}), tmp_path / "p.parquet")
        found = [row.extra for row in corpus(tmp_path / "p.parquet").rows()]
        assert found == [{"m": '[["k", 1]]', "u": str(key)}, {"m": None, "u": None}]


class TestNames:
    """One sentence names every column that cannot be written, and its line makes the source readable."""

    def repaired(self, path: Path, *named: str, **section: Any) -> list[str]:
        with pytest.raises(UserError) as caught:
            corpus(path, **section)
        assert all(repr(name) in str(caught.value) for name in named)
        line = re.search(r"columns: \{.*\}$", str(caught.value))
        assert line is not None
        return corpus(path, **{**section, **yaml.safe_load(line[0])}).extra_schema.names

    def test_of_the_runs_own_columns(self, tmp_path: Path) -> None:
        path = write(tmp_path / "p.csv", "seed,prompt,width,tag,corpus_seed,height\n1,a cat,2,x,3,4\n")
        names = self.repaired(path, "seed", "width", "height")
        assert names == ["corpus_seed_2", "corpus_width", "tag", "corpus_seed", "corpus_height"]

    @pytest.mark.parametrize("name", ["ID", "Seed", "Prompt", "IMAGE", "Noise_FP16"])
    def test_that_differ_in_letter_case_only(self, tmp_path: Path, name: str) -> None:
        path = write(tmp_path / "p.jsonl", f'{{"prompt": "a cat", "{name}": 1, "tag": 2}}\n')
        assert self.repaired(path, name) == [f"corpus_{name}", "tag"]

    def test_of_two_columns_that_differ_in_letter_case_only(self, tmp_path: Path) -> None:
        path = write(tmp_path / "p.csv", "prompt,Note,note\na cat,1,2\n")
        assert self.repaired(path, "Note", "note") == ["Note", "corpus_note"]

    def test_of_a_new_name_that_another_column_has(self, tmp_path: Path) -> None:
        path = write(tmp_path / "p.csv", "prompt,n,tag\na cat,1,2\n")
        names = self.repaired(path, "n", "tag", columns={"rename": {"n": "tag"}})
        assert names == ["tag", "corpus_tag"]

    def test_of_clashes_that_show_late_and_with_what_the_config_has(self, tmp_path: Path) -> None:
        lines = (
            '{"prompt": "a cat", "tag": 1, "old": 2}\n' * 1100 + '{"prompt": "b", "seed": 1, "id": 2, "\\u0007": 3}\n'
        )
        columns = {"rename": {"tag": "label"}, "drop": ["old"]}
        names = self.repaired(write(tmp_path / "p.jsonl", lines), "seed", "id", columns=columns)
        assert names == ["label", "corpus_seed", "corpus_id", "corpus_column"]

    def test_of_images(self, tmp_path: Path) -> None:
        features = datasets.Features(
            {"prompt": datasets.Value("string"), "photo": datasets.Image(), "seed": datasets.Value("int8")}
        )
        datasets.disable_progress_bars()
        data = datasets.Dataset.from_dict({"prompt": ["a cat"], "photo": [None], "seed": [1]}, features=features)
        data.to_parquet(tmp_path / "p.parquet")
        assert self.repaired(tmp_path / "p.parquet", "photo", "seed") == ["corpus_seed"]

    def test_a_new_name_is_checked_as_well(self, tmp_path: Path) -> None:
        path = write(tmp_path / "p.csv", "prompt,n\na cat,1\n")
        for new in ("seed", "SEED", " ", "a\x07b"):
            with pytest.raises(UserError, match=r"columns?( name)? 'n' is"):
                corpus(path, columns={"rename": {"n": new}})


def test_tables_of_two_sources_are_united_as_text(tmp_path: Path) -> None:
    """As if they were one file: an id such as 007 keeps its form, and so does 1 next to it."""
    first = write(tmp_path / "a.csv", "prompt,n\na cat,1\n")
    second = write(tmp_path / "b.tsv", "prompt\tn\na dog\t007\n")
    opened = open_corpus(RunConfig.model_validate({"corpus": [{"source": str(first)}, {"source": str(second)}]}))
    assert [row.extra for row in opened.rows()] == [{"n": "1"}, {"n": "007"}]
