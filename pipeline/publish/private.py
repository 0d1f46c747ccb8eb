"""What a run knows of the machine that made it, and a published dataset must not tell: paths and addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.config.flat import flatten

SERVED = "a served model"
_PATH = re.compile(r"(/|~|\.\.?/|[A-Za-z]:\\).+")
# A relative path of a file is no Hub id, although it may look like one.
_FILE = re.compile(r".*/.*\.(txt|csv|tsv|jsonl?|parquet|arrow|ya?ml|gz|zst|safetensors|bin|ckpt|pth?|py)")


def is_private(text: str) -> bool:
    """Return whether a text is the path of a file or folder, or an address; a Hub id and a bare name are neither."""
    if "://" in text:
        return not text.startswith("hf://")
    return _PATH.fullmatch(text) is not None or _FILE.fullmatch(text) is not None


class Disguise:
    """Replaces the paths and addresses that a run knows by names that say nothing of a machine.

    A path becomes its last part, and an address of HTTP becomes :data:`SERVED`.

    Args:
        configs: those of the run's parts.
        origins: how the values of its side tables were made, such as by the model of a judge that no config names.
    """

    def __init__(self, run_dir: Path, configs: Iterable[RunConfig], origins: Iterable[Mapping[str, str]]) -> None:
        found = {str(run_dir), str(run_dir.absolute()), str(Path.home())}
        for section in (*(flatten(config.model_dump(mode="json")) for config in configs), *origins):
            for key, value in section.items():
                if isinstance(value, str) and (is_private(value) or key == "ray.address" or _is_folder(key, value)):
                    found.add(value)
        telling = [text for text in found if re.search(r"[^/.~].*", text) and re.search("[/:]", text)]
        self._names = {text: _public(text) for text in sorted(telling, key=len, reverse=True)}

    def hide(self, text: str) -> str:
        """Return a text with every path and address replaced, the longest first."""
        for private, public in self._names.items():
            text = text.replace(private, public)
        return text

    def found_in(self, text: str) -> list[str]:
        """Return the paths and addresses that a text holds, as they are or with the backslashes of Markdown."""
        plain = text.replace("\\", "")
        return [private for private in self._names if private in plain]


def private_parts(values: Iterable[object]) -> list[str]:
    """Return the paths and addresses among the values of a row; several models are joined by `` + ``."""
    found = []
    for value in values:
        if isinstance(value, str):
            found += [part for part in value.split(" + ") if is_private(part)]
    return found


def _is_folder(key: str, value: str) -> bool:
    """Return whether a config value that looks like a Hub id is a folder here."""
    return key.rpartition(".")[2] in ("model", "source", "lora") and "/" in value and Path(value).exists()


def _public(text: str) -> str:
    if text.startswith(("http://", "https://")):
        return SERVED
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]
