"""Labels by eye: for ids of a run's rows, whether the kept image shows its prompt."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

from noisesmith.pipeline.errors import UserError, reason


def read_labels(path: Path, ids: Container[str]) -> dict[str, bool]:
    """Read a CSV file with the columns ``id`` and ``label``, or JSON lines with these keys; a label is 0 or 1.

    Args:
        ids: of the run's committed rows.

    Raises:
        UserError: the file cannot be read, or a line of it cannot be used.
    """
    labels: dict[str, bool] = {}
    for number, record in enumerate(_read(path), 1):
        where = f"--labels: {path}: row {number}"
        row_id, label = str(record["id"]), str(record["label"])
        if label not in ("0", "1"):
            raise UserError(f"{where}: label {label!r} is neither 0 nor 1; write 1 where the image shows its prompt")
        if row_id not in ids:
            raise UserError(f"{where}: the run has no committed row {row_id!r}; ids are in its id column")
        if row_id in labels:
            raise UserError(f"{where}: id {row_id!r} is there twice; keep one of the two labels")
        labels[row_id] = label == "1"
    if not labels:
        raise UserError(f"--labels: {path}: holds no label; write one row per image, with the columns id and label")
    return labels


def _read(path: Path) -> list[dict[str, object]]:
    """Return the records of the file, ids as text."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise UserError(f"--labels: {path}: has no known extension; use .csv or .jsonl")
    try:
        if kind == ".csv":
            texts = dict.fromkeys(("id", "label"), pa.string())
            options = pyarrow.csv.ConvertOptions(column_types=texts, include_columns=list(texts))
            table = pyarrow.csv.read_csv(path, convert_options=options)
        else:
            types = pa.schema([("id", pa.string()), ("label", pa.int64())])
            parsing = pyarrow.json.ParseOptions(explicit_schema=types, unexpected_field_behavior="ignore")
            table = pyarrow.json.read_json(path, parse_options=parsing)
    except FileNotFoundError:
        raise UserError(f"--labels: {path}: no such file; check the path") from None
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(
            f"--labels: {path}: cannot be read ({reason(error)}); write the columns id and label, a label being 0 or 1"
        ) from error
    records: list[dict[str, object]] = table.to_pylist()
    return records
