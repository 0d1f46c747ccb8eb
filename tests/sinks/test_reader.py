"""Rows read back from a run's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.sinks import read_rows, verify_run
from noisesmith.pipeline.xmp import with_marks
from tests.sinks.conftest import COLUMNS, ROWS, Run, result

# fmt: off


class TestReadRows:
    @pytest.mark.parametrize("formats", [["parquet"], ["webdataset"], ["webdataset", "parquet"]])
    def test_rows_come_in_order_from_either_format(self, make_run: Callable[..., Run], formats: list[str]) -> None:
        run = make_run(output={"formats": formats, "tar_image_initial": "webdataset" in formats}).write_all()
        rows = list(read_rows(run.dir))
        assert [row["id"] for row in rows] == [row.id for row in run.rows]
        assert list(rows[0]) == COLUMNS
        written = with_marks(result(run.rows[7]))
        assert rows[7]["image"] == written.image
        assert rows[7]["image_initial"] == written.image_initial
        assert rows[7]["recipe"]["gammas"] == [0.1 + 0.2]
        assert list(read_rows(run.dir, ["n", "prompt"]))[:2] == [{"n": n, "prompt": "a cat"} for n in range(2)]

    def test_a_directory_with_a_colon_is_no_url(
        self, make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run = make_run(output={"dir": "night:1/run"}).write_all()
        assert len(list(read_rows(run.dir))) == ROWS
        assert verify_run(run.dir) == []

    def test_images_are_not_read_unless_asked_for(self, make_run: Callable[..., Run]) -> None:
        run = make_run(output={"formats": ["parquet"]}).write_all()
        for path in (run.dir / "data").iterdir():
            content = path.read_bytes()
            start = pq.read_metadata(path).row_group(0).column(2).data_page_offset
            path.write_bytes(content[:start] + b"\xff" * 40 + content[start + 40 :])
        assert len(list(read_rows(run.dir, ["id", "scores"]))) == 10
        with pytest.raises(UserError, match=r"train-00000-of-00003\.parquet: cannot be read .*noisesmith verify"):
            list(read_rows(run.dir, ["image"]))

    def test_a_column_that_is_not_there(self, make_run: Callable[..., Run]) -> None:
        run = make_run().write_all()
        with pytest.raises(UserError, match="has no column 'colour'; it has id, prompt"):
            read_rows(run.dir, ["colour"])

    def test_a_directory_that_is_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is not a run directory"):
            read_rows(tmp_path)
