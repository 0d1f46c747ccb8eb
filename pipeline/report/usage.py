"""How a reader opens a run's dataset: the code in its card, and the command that a run prints at its end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from noisesmith.pipeline.sinks.manifest import Manifest, read_manifest
from noisesmith.pipeline.storage.paths import is_remote

_IMAGES = {"parquet": "image", "webdataset": "png"}  # format, which is its reader's name too -> column of the image


@dataclass(frozen=True)
class Place:
    """Where a reader finds a dataset: in its run directory or, where ``repository`` names one, on the Hub."""

    run_dir: Path
    repository: str | None = None


def written_patterns(manifest: Manifest) -> dict[str, str]:
    """The pattern of the data files of each format that a run has written, the preferred format first."""
    if not manifest.filled:
        return {}
    layout = manifest.header.layout
    return {kind: layout.pattern(kind) for kind in _IMAGES if kind in manifest.header.formats}


def open_command(run_dir: Path) -> str:
    """The shell command that opens a run's dataset with ``datasets``; the run has at least one committed row."""
    arguments = _arguments(Place(run_dir), written_patterns(read_manifest(run_dir)))
    code = f"from datasets import load_dataset; print(load_dataset({arguments}))"
    return f"python -c {shlex.quote(code)}"


def usage(place: Place, patterns: Mapping[str, str], tables: Sequence[str] = ()) -> str:
    """The Python code that opens a dataset's rows and ``tables`` with ``datasets``, and its tars with ``webdataset``.

    Args:
        patterns: the pattern of the data files of each format that was written (:func:`written_patterns`).
    """
    if not patterns:
        return "# no row finished"
    image = _IMAGES[next(iter(patterns))]
    where = "" if place.repository else "# where the run wrote it; a copy on the Hub opens by its name\n"
    parts = [
        f"""\
from datasets import load_dataset

{where}rows = load_dataset({_arguments(place, patterns)}, split="train")
rows[0]["{image}"].show()"""
    ]
    if tables:
        parts.append(_side_usage(place, patterns, tables))
    if "webdataset" in patterns:
        parts.append(_tar_usage(place, patterns["webdataset"]))
    return "\n\n".join(parts)


def _side_usage(place: Place, patterns: Mapping[str, str], tables: Sequence[str]) -> str:
    table = tables[0]
    arguments = f'"parquet", data_files={_files(place, f"side/{table}/*.parquet")}'
    if _opens_by_name(place) and "parquet" in patterns:
        arguments = f"{_arguments(place, patterns)}, {_literal(table)}"
    return f"""\
# further columns, made later for the same rows and joined by id: {", ".join(tables)}
{table} = load_dataset({arguments}, split="train")"""


def _tar_usage(place: Place, pattern: str) -> str:
    imports = "import json"
    files = _files(place, pattern)
    lines = [f'samples = load_dataset("webdataset", data_files={files}, split="train", streaming=True)']
    if _webdataset_opens(place):
        imports = "import json\nfrom pathlib import Path\n\nimport webdataset"
        lines = [
            f'tars = sorted(str(path) for path in Path({_literal(_local(place))}).resolve().glob("{pattern}"))',
            'samples = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")',
        ]
    code = "\n".join(lines)
    return f"""\
# the same rows as tar shards, for streaming
{imports}

{code}
sample = next(iter(samples))  # "png", "txt" (the prompt), "json" (the other columns)
recipe = json.loads(sample["json"]["recipe"])"""


def _opens_by_name(place: Place) -> bool:
    """Whether ``load_dataset`` opens the dataset by its name; it opens a folder of a store by its files only."""
    return place.repository is not None or not is_remote(place.run_dir)


def _webdataset_opens(place: Place) -> bool:
    """Whether the library ``webdataset`` can open a run's tars: it reads paths as URLs, and drops parts of some."""
    if place.repository is not None or is_remote(place.run_dir):
        return False
    return not any(character in str(place.run_dir.resolve()) for character in "#?\n\r\t")


def _arguments(place: Place, patterns: Mapping[str, str]) -> str:
    """The arguments of ``load_dataset``, as Python code."""
    if _opens_by_name(place):
        return _literal(place.repository or _local(place))
    kind, pattern = next(iter(patterns.items()))
    return f"{_literal(kind)}, data_files={_files(place, pattern)}"


def _files(place: Place, pattern: str) -> str:
    """The pattern of a dataset's files, as Python code."""
    return _literal(f"{_local(place)}/{pattern}")


def _local(place: Place) -> str:
    """A path that ``datasets`` takes for nothing else: for one of its readers (json) or for a home folder (~)."""
    if place.repository is not None:
        return f"hf://datasets/{place.repository}"
    path = place.run_dir
    text = str(path)
    if is_remote(path):
        return text
    if text.startswith("~"):
        return str(path.absolute())
    is_one_name = not path.is_absolute() and len(path.parts) < 2
    return f"./{text}" if is_one_name else text


def _literal(text: str) -> str:
    """A Python string; in double quotes, which a shell leaves alone within single ones, where that is simple."""
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else repr(text)
