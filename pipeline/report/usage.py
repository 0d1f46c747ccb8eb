"""How a reader opens a run's dataset: the code in its card, and the command that a run prints at its end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from noisesmith.pipeline.storage.paths import is_remote

_READERS = {".parquet": ("parquet", "image"), ".tar": ("webdataset", "png")}  # name in `datasets`, column of the image


def data_suffixes(run_dir: Path) -> list[str]:
    """The formats of ``data/``, the preferred one first."""
    return [suffix for suffix in _READERS if any((run_dir / "data").glob(f"*{suffix}"))]


def open_command(run_dir: Path) -> str:
    """The shell command that opens a run's dataset with ``datasets``; the run has at least one committed row."""
    arguments = _arguments(run_dir, data_suffixes(run_dir)[0])
    code = f"from datasets import load_dataset; print(load_dataset({arguments}))"
    return f"python -c {shlex.quote(code)}"


def usage(run_dir: Path, suffixes: Sequence[str], tables: Sequence[str] = ()) -> str:
    """The Python code that opens a run's rows and ``tables`` with ``datasets``, and its tars with ``webdataset``."""
    if not suffixes:
        return "# no row finished"
    _, image = _READERS[suffixes[0]]
    parts = [
        f"""\
from datasets import load_dataset

# where the run wrote it; a copy on the Hub opens by its own name, such as "user/name"
rows = load_dataset({_arguments(run_dir, suffixes[0])}, split="train")
rows[0]["{image}"].show()"""
    ]
    if tables:
        parts.append(_side_usage(run_dir, suffixes[0], tables))
    if ".tar" in suffixes:
        parts.append(_tar_usage(run_dir))
    return "\n\n".join(parts)


def _side_usage(run_dir: Path, suffix: str, tables: Sequence[str]) -> str:
    table = tables[0]
    arguments = f"{_literal(_local(run_dir))}, {_literal(table)}"
    if is_remote(run_dir) or suffix != ".parquet":
        pattern = _literal(f"{_local(run_dir)}/side/{table}/*.parquet")
        arguments = f'"parquet", data_files={pattern}'
    return f"""\
# further columns, made later for the same rows and joined by id: {", ".join(tables)}
{table} = load_dataset({arguments}, split="train")"""


def _tar_usage(run_dir: Path) -> str:
    imports = "import json"
    samples = f'load_dataset("webdataset", data_files={_files(run_dir, ".tar")}, split="train", streaming=True)'
    lines = [f"samples = {samples}"]
    if _webdataset_opens(run_dir):
        imports = "import json\nfrom pathlib import Path\n\nimport webdataset"
        lines = [
            f'tars = sorted(str(path) for path in Path({_literal(_local(run_dir))}).resolve().glob("data/*.tar"))',
            'samples = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")',
        ]
    code = "\n".join(lines)
    return f"""\
# the same rows as tar shards, for streaming
{imports}

{code}
sample = next(iter(samples))  # "png", "txt" (the prompt), "json" (the other columns)
recipe = json.loads(sample["json"]["recipe"])"""


def _webdataset_opens(run_dir: Path) -> bool:
    """Whether the library ``webdataset`` can open a run's tars: it reads paths as URLs, and drops parts of some."""
    return not is_remote(run_dir) and not any(character in str(run_dir.resolve()) for character in "#?\n\r\t")


def _arguments(run_dir: Path, suffix: str) -> str:
    """The arguments of ``load_dataset``, as Python code; it opens a folder of a store by its files only."""
    in_store = is_remote(run_dir)
    if in_store:
        return f"{_literal(_READERS[suffix][0])}, data_files={_files(run_dir, suffix)}"
    return _literal(_local(run_dir))


def _files(run_dir: Path, suffix: str) -> str:
    """The pattern of a run's data files, as Python code."""
    return _literal(f"{_local(run_dir)}/data/*{suffix}")


def _local(path: Path) -> str:
    """A path that ``datasets`` takes for nothing else: for one of its readers (json) or for a home folder (~)."""
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
