"""Writes a corpus with its questions, so that a killed command goes on where it was.

Questions of a served model are kept next to the output as they come, in ``FILE.partial.jsonl``: a header that says what
they are of, then one line per row. Once there is one for each row, the output is written whole, and that file removed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from noisesmith.pipeline.decompose.ask import Asker, Decomposed, by_rules
from noisesmith.pipeline.errors import RunError, UserError
from noisesmith.pipeline.models.server import CONCURRENCY, ServerError
from noisesmith.pipeline.prompts import Corpus
from noisesmith.pipeline.prompts.questions import question_list
from noisesmith.pipeline.records import Question, Row
from noisesmith.pipeline.storage.files import append_line, drop_half_line, durable, read_lines, replace, temporary

COLUMN = "questions"
_TYPE = pa.list_(pa.struct([(name, pa.string()) for name in Question.__dataclass_fields__]))
_ROW_GROUP = 1000


@dataclass(frozen=True)
class Summary:
    """How many rows have their questions from where: see :class:`Decomposed`."""

    rows: int
    model: int = 0
    retry: int = 0
    rules: int = 0
    whole: int = 0

    def __str__(self) -> str:
        parts = [f"{self.rows:,} rows"]
        if self.model or self.retry:
            parts.append(f"{self.model + self.retry:,} by the model ({self.retry:,} at its second try)")
        parts.append(f"{self.rules:,} by the rules")
        parts.append(f"{self.whole:,} without questions, to be asked as a whole")
        return ", ".join(parts)

    @classmethod
    def of(cls, origins: Counter[str]) -> Summary:
        return cls(rows=origins.total(), **origins)


def write_questions(
    corpus: Corpus, column: str, out: Path, asker: Asker | None, on_row: Callable[[], None] = lambda: None
) -> Summary:
    """Write the prompts of a corpus, its other columns and a column of questions.

    Args:
        column: the name that the prompts' column gets.
        out: ends in ``.jsonl`` or ``.parquet``; replaced where it exists.
        asker: the model that is asked; the rules alone when absent.
        on_row: called after each row that was asked.

    Raises:
        UserError: the output cannot hold the corpus, or has been started with another one.
        RunError: the server does not answer; the same command goes on from here.
    """
    _check(corpus, column, out)
    if asker is None:
        origins: Counter[str] = Counter()
        _write(corpus, column, out, _by_rules(corpus, origins))
        return Summary.of(origins)
    journal = _Journal(out, corpus, asker.model)
    done = journal.read()
    _ask_all(corpus, asker, journal, done, on_row)
    _write(corpus, column, out, ((row, done[row.index].questions) for row in corpus.rows()))
    journal.path.unlink()
    return Summary.of(Counter(decomposed.origin for decomposed in done.values()))


class _Journal:
    """The questions that were asked so far."""

    def __init__(self, out: Path, corpus: Corpus, model: str) -> None:
        self.path = out.with_name(f"{out.name}.partial.jsonl")
        self._header = {"corpus": corpus.digest, "model": model}

    def read(self) -> dict[int, Decomposed]:
        """The rows that are done, by index.

        Raises:
            UserError: they are of another corpus or model, or the file is damaged.
        """
        drop_half_line(self.path)
        try:
            lines = read_lines(self.path)
        except ValueError as error:
            raise UserError(f"{self.path}: {error}; remove the file to begin again") from error
        if not lines:
            append_line(self.path, self._header)
            return {}
        if lines[0] != self._header:
            raise UserError(
                f"{self.path}: was started with another corpus or model; remove the file, or give another --out"
            )
        return {line["index"]: Decomposed(question_list(line["questions"]), line["origin"]) for line in lines[1:]}

    def add(self, index: int, decomposed: Decomposed) -> None:
        questions = [asdict(question) for question in decomposed.questions]
        append_line(self.path, {"index": index, "origin": decomposed.origin, "questions": questions})


def _ask_all(
    corpus: Corpus, asker: Asker, journal: _Journal, done: dict[int, Decomposed], on_row: Callable[[], None]
) -> None:
    """Ask about each row that is not done; a few more than the server takes at once are in memory."""
    waiting: dict[Future[Decomposed], int] = {}

    def receive(most: int) -> None:
        while len(waiting) > most:
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                index = waiting.pop(future)
                done[index] = future.result()
                journal.add(index, done[index])
                on_row()

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        try:
            for row in corpus.rows(skip=set(done)):
                waiting[pool.submit(asker.decompose, row.prompt)] = row.index
                receive(2 * CONCURRENCY)
            receive(0)
        except ServerError as error:
            pool.shutdown(wait=False, cancel_futures=True)
            raise RunError(f"--server: {error}") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _by_rules(corpus: Corpus, origins: Counter[str]) -> Iterator[tuple[Row, tuple[Question, ...]]]:
    for row in corpus.rows():
        decomposed = by_rules(row.prompt)
        origins[decomposed.origin] += 1
        yield row, decomposed.questions


def _check(corpus: Corpus, column: str, out: Path) -> None:
    """Refuse an output that cannot hold the corpus, before anything is asked."""
    if out.suffix not in (".jsonl", ".parquet"):
        raise UserError(f"--out: {out} must end in .jsonl or .parquet; name such a file")
    if not out.parent.is_dir():
        raise UserError(f"--out: {out.parent} is no folder; make it first")
    for name in corpus.extra_schema.names:
        if name in (COLUMN, column):
            raise UserError(f"CORPUS: has a column {name!r} already; leave it out with corpus.columns in a config")
    for field in corpus.extra_schema:
        if out.suffix == ".jsonl" and not _fits_json(field.type):
            raise UserError(
                f"--out: JSON lines cannot hold the column {field.name!r}, whose type is {field.type}; "
                "give a name that ends in .parquet"
            )


def _fits_json(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_struct(kind):
        return all(_fits_json(field.type) for field in kind)
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        return _fits_json(kind.value_type)
    checks = (types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_string)
    return any(check(kind) for check in checks)


def _write(corpus: Corpus, column: str, out: Path, rows: Iterator[tuple[Row, tuple[Question, ...]]]) -> None:
    records = (_record(column, row, questions) for row, questions in rows)
    staged = temporary(out)
    try:
        with durable(staged) as file:
            if out.suffix == ".jsonl":
                for record in records:
                    file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            else:
                schema = pa.schema([(column, pa.string()), (COLUMN, _TYPE), *corpus.extra_schema])
                with pq.ParquetWriter(file, schema) as writer:
                    for group in _groups(records):
                        writer.write_table(pa.Table.from_pylist(group, schema))
        replace(staged, out)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written ({error.strerror or error}); give another file") from error


def _record(column: str, row: Row, questions: tuple[Question, ...]) -> dict[str, object]:
    return {column: row.prompt, COLUMN: [asdict(question) for question in questions], **row.extra}


def _groups(records: Iterator[dict[str, object]]) -> Iterator[list[dict[str, object]]]:
    group: list[dict[str, object]] = []
    for record in records:
        group.append(record)
        if len(group) == _ROW_GROUP:
            yield group
            group = []
    if group:
        yield group
