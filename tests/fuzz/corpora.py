"""Hostile corpus files of every format that is read."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.mutations import NUMBERS, TEXTS, mutated_bytes, value

FILES = ("p.txt", "p.csv", "p.tsv", "p.jsonl", "p.ndjson", "p.json", "p.parquet")
CODECS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}
PROMPTS = (
    "a cat and a red car", "a dog", "ein Bär", "猫", "{prompt}", "{", "}{", "{prompt.__class__}", "%s", "'", '"',
    "../../etc/passwd", "<script>alert(1)</script>", "[/bold] a cat", "<image> a cat", "</s>", "=cmd()", "a\tcat",
    "!!python/object:os.system x", "a,cat", "$(touch pwned)", "a\u2028cat", "\ufeffa cat", "e\u0301", "CON", "x" * 2000,
)  # fmt: skip
COLUMNS = (
    "n", "topic", "score", "image", "id", "judge_detector", "noise_fp16", "__key__", "a.b", "a/b", "N", "{prompt}",
    "png", "é", "", " ", "\n", "\0", "../x", "x" * 300, "prompt ", "Prompt", "[/b]", "__proto__", "extra",
)  # fmt: skip
TYPES = (
    pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.bool_(), pa.string(), pa.large_string(), pa.string_view(),
    pa.binary(), pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "Europe/Berlin"),
    pa.timestamp("ms", "+01:00"), pa.time32("s"), pa.time64("ns"), pa.duration("ns"), pa.duration("s"), pa.null(),
    pa.decimal128(5, 2), pa.decimal256(60, 3), pa.list_(pa.int32()), pa.large_list(pa.string()), pa.uuid(),
    pa.list_(pa.float32(), 2), pa.list_(pa.list_(pa.null())), pa.list_(pa.struct([("x", pa.timestamp("ns"))])),
    pa.struct([("a", pa.int8()), ("b", pa.string())]), pa.map_(pa.string(), pa.int8()),
    pa.dictionary(pa.int8(), pa.string()),
)  # fmt: skip


def write_corpus(random: Random, folder: Path) -> str:
    """One corpus file or folder; returns its name."""
    if random.random() < 0.05:
        return _dataset(random, folder / "folder")
    name = random.choice(FILES)
    content = _content(random, name)
    if random.random() < 0.15:
        name, content = _compressed(random, name, content)
    (folder / name).write_bytes(content)
    return name


def columns(random: Random) -> Any:
    """A section ``corpus.columns``, most often of columns that a corpus has."""
    if random.random() < 0.1:
        return value(random)
    names = COLUMNS if random.random() < 0.5 else COLUMNS[:3]
    section: dict[str, Any] = {}
    for key in random.sample(("keep", "drop", "rename", "types"), random.randint(1, 3)):
        some = random.sample(names, random.randint(0, 2))
        if key == "rename":
            section[key] = {name: random.choice((*COLUMNS, "prompt", *TEXTS)) for name in some}
        elif key == "types":
            section[key] = {name: random.choice(("string", "int64", "float64", "bool", "date")) for name in some}
        else:
            section[key] = some
    return section


def _compressed(random: Random, name: str, content: bytes) -> tuple[str, bytes]:
    """A compressed file, now and then twice, damaged, or with a name that does not say so or lies."""
    suffix = random.choice(list(CODECS))
    for _ in range(random.choice((1, 1, 1, 2))):
        content = CODECS[suffix](content)
    if random.random() < 0.3:
        content = mutated_bytes(random, content)
    named = random.choice((suffix, suffix, suffix, "", random.choice(list(CODECS))))
    return f"{name}{named}", content


def _content(random: Random, name: str) -> bytes:
    kind, count = name.split(".")[1], random.choice((1, 2, 3, 5, 20, 1100))
    content = _parquet(random, count) if kind == "parquet" else _text(random, kind, count)
    if random.random() < 0.1:
        content = b"\xef\xbb\xbf" + content
    return mutated_bytes(random, content) if random.random() < 0.25 else content


def _text(random: Random, kind: str, count: int) -> bytes:
    rows = _rows(random, count)
    if kind == "txt":
        text = "".join(f"{row['prompt']}\n" for row in rows)
    elif kind in ("csv", "tsv"):
        sheet = io.StringIO()
        delimiter = "\t" if kind == "tsv" and random.random() < 0.8 else random.choice(",,,;|\t")
        writer = csv.writer(sheet, delimiter=delimiter, lineterminator=random.choice(("\n", "\r\n")))
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer.writerow(names)
        writer.writerows([row.get(name, "") for name in names] for row in rows)
        text = sheet.getvalue()
    else:
        text = "".join(json.dumps(row, ensure_ascii=random.random() < 0.5) + "\n" for row in rows)
        if random.random() < 0.05:
            text = json.dumps(rows, indent=random.choice((None, 1)))
    return text.encode("utf-8", "surrogatepass")


def _rows(random: Random, count: int) -> list[dict[str, Any]]:
    """Rows whose columns are mostly of one type each."""
    hostile = random.random() < 0.3
    names = random.sample(COLUMNS if hostile else COLUMNS[:2], random.randint(0, 2))
    columns = {name: random.choice(("int", "text", "any", "list")) for name in names}
    draw = {
        "int": lambda: random.randint(-5, 5),
        "text": lambda: random.choice(TEXTS[8:]),
        "any": lambda: value(random) if hostile else random.choice((None, 1, 2.5)),
        "list": lambda: [random.choice(NUMBERS[:16]) for _ in range(random.randint(0, 2))],
    }
    rows: list[dict[str, Any]] = []
    for number in range(count):
        prompt = random.choice(PROMPTS if hostile else PROMPTS[:4]) if number % 7 else f"prompt {number}"
        rows.append({"prompt": prompt} | {name: draw[kind]() for name, kind in columns.items()})
    if hostile and random.random() < 0.2:
        rows[random.randrange(count)]["prompt"] = value(random)
    return rows


def _parquet(random: Random, count: int) -> bytes:
    columns = {"prompt": pa.array([f"a cat {n}" for n in range(count)])}
    for name in random.sample(COLUMNS if random.random() < 0.3 else COLUMNS[:2], random.randint(0, 2)):
        kind = random.choice(TYPES)
        try:
            plain = [None if random.random() < 0.3 else random.randint(0, 99) for _ in range(count)]
            columns[name] = pa.array(plain).cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            columns[name] = pa.nulls(count, kind)
    if random.random() < 0.2:
        columns["prompt"] = columns["prompt"].cast(random.choice((pa.large_string(), pa.string_view(), pa.binary())))
    table = pa.table(columns)
    if random.random() < 0.05:
        table = table.append_column("prompt", columns["prompt"])
    file = io.BytesIO()
    codec = random.choice(("none", "snappy", "zstd"))
    pq.write_table(table, file, compression=codec, row_group_size=random.choice((1, 7, 5000)))
    return file.getvalue()


def _dataset(random: Random, folder: Path) -> str:
    """A folder that ``datasets`` opens: its own format, or files, some of which could run code elsewhere."""
    import datasets

    if random.random() < 0.3:
        columns = {"prompt": ["a cat", "a dog"], random.choice(("n", "score", "a.b", "[/b]")): [1, 2]}
        datasets.Dataset.from_dict(columns).save_to_disk(folder)
    else:
        folder.mkdir()
        name = random.choice((*FILES, "data.py", "data.pkl", "loading_script.py", "README.md", "train.yaml", "x.tar"))
        content = _content(random, name) if name in FILES else b"cos\nsystem\n(S'touch pwned'\ntR."
        (folder / name).write_bytes(content)
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".arrow"]
    if files and random.random() < 0.5:
        path = random.choice(files)
        path.write_bytes(mutated_bytes(random, path.read_bytes()))
    return "folder"
