"""Finds a model and reads what it is from its small JSON files, before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from noisesmith.pipeline.embedded import NAMES, versions, weights
from noisesmith.pipeline.errors import UserError, reason
from noisesmith.pipeline.models.libraries import Json, Options
from noisesmith.pipeline.models.loading import HUB_ERRORS
from noisesmith.pipeline.models.quantization import Quantization, add_quantization
from noisesmith.pipeline.models.weights import PICKLED, WeightsAlone, known_without
from noisesmith.pipeline.storage.home import user_path

CARD = "README.md"
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
MOST_LAYERS = 1000  # building more, without a weight even, takes minutes; large models have about a hundred
_EDGE = 1 << 20  # bytes hashed at each end of a large file


@dataclass(frozen=True)
class ModelSource:
    """A model that was found: ``location`` is a folder or a Hub id, for ``from_pretrained``.

    Where ``file`` is set, the weights are in that one file, and ``location`` has only their configuration. Where
    ``weights`` is set, they are in the first file there is of these names, and are not read by ``from_pretrained``.
    ``index`` is the small file that every such model has.
    """

    id: str
    location: str
    revision: str | None
    class_name: str
    field: str
    variant: str | None = None
    allow_pickle: bool = False
    file: Path | None = None
    quantization: Quantization | None = None
    weights: tuple[str, ...] = ()
    index: str = "config.json"

    @property
    def local(self) -> bool:
        return Path(self.location).is_dir()

    def read_json(self, filename: str) -> Json:
        """One JSON file of the model.

        Raises:
            UserError: it is missing, unreachable or not JSON, or asks for more than :data:`MOST_LAYERS` layers.
        """
        return _read_json(self.location if self.file else self.id, self.location, self.revision, filename, self.field)

    def has_safetensors(self) -> bool:
        """Whether the weights are safetensors; pickled ones (``.bin``) count only where ``allow_pickle`` is set.

        Raises:
            UserError: there are no safetensors, and pickled weights are not allowed.
        """
        names = [f"{name}.safetensors" for name in self.weights] or [
            "model.safetensors",
            "model.safetensors.index.json",
        ]
        found = any(self._path(name) for name in names)
        if not found and not self.allow_pickle:
            suffix = ".pt" if self.weights else ".bin"
            raise UserError(
                f"{self.field}: {self.id!r} has no {names[0]}; give a folder or revision that has, or set "
                f"scorers.allow_pickle=true to read its pickled weights ({suffix}) if you trust them"
            )
        return found

    def weights_file(self) -> Path:
        """The one file that holds the weights of a model with names of its own for it.

        Raises:
            UserError: there is none, or only a pickled one and these are not allowed.
        """
        suffixes = (".safetensors",) if self.has_safetensors() else PICKLED
        for name in self.weights:
            for suffix in suffixes:
                path = self._path(name + suffix)
                if path is not None:
                    return path
        raise UserError(f"{self.field}: {self.id!r} has no {self.weights[0]}.pt; fetch the model again")

    def _path(self, filename: str) -> Path | None:
        """A file of the model, which is downloaded where it is not here; ``None`` where the model has none."""
        if self.local:
            path = Path(self.location) / filename
            return path if path.is_file() else None
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            return Path(hf_hub_download(self.location, filename, revision=self.revision))
        except EntryNotFoundError:
            return None

    def resolved_revision(self) -> str:
        """The commit of a Hub model, or a fingerprint of local files (names, sizes, both ends of each file).

        How the weights are stored follows where they are quantised: ``…+torchao-int8``.
        """
        if self.file:
            revision = fingerprint([self.file], self.file.parent)
        elif self.local:
            revision = _folder_fingerprint(Path(self.location), PICKLED if self.allow_pickle else ())
        else:
            revision = self._snapshot().name
        return add_quantization(revision, self.quantization)

    def stored_folder(self) -> Path | None:
        """The folder that must hold every weight file already: a local one, or the Hub's cache in offline mode."""
        from huggingface_hub import constants

        if self.local:
            return Path(self.location)
        return self._snapshot() if constants.HF_HUB_OFFLINE else None

    def _snapshot(self) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.location, self.index, revision=self.revision)).parent

    def load_options(self) -> Options:
        """Options for ``from_pretrained`` of ``diffusers``: revision, files, and whether pickles are allowed."""
        return {
            "revision": self.revision,
            "variant": self.variant,
            "use_safetensors": None if self.allow_pickle else True,
            "local_files_only": self.local,
        }


def locate(
    model: str, revision: str | None, field: str, index_file: str, alone: Sequence[WeightsAlone] = ()
) -> ModelSource:
    """Find a model and read its class from ``index_file`` (``model_index.json`` or ``config.json``).

    Args:
        field: the config field that names the model, such as ``generators.model``; it leads every message.
        alone: the checkpoints that may lack the index file, known by their Hub id or by their weights.

    Raises:
        UserError: no such folder, no such Hub model, or no class named in the index file.
    """
    embedded = NAMES[field.split(".")[0]]
    location = str(weights(embedded[model]) if model in embedded else user_path(model))
    if not os.path.exists(location):  # unlike Path's own, no error where the system cannot take such a name
        if Path(model).suffix in {".safetensors", *PICKLED}:
            raise UserError(f"{field}: no file {model!r}; give a model's file or folder, or a Hub id")
        if not _HUB_ID.match(model):
            raise UserError(f"{field}: no folder {model!r}; give a model folder, a Hub id or {', '.join(embedded)}")
        location = model
    elif not Path(location).is_dir():
        raise UserError(f"{field}: {model!r} is a file; give the model's folder")
    known = known_without(index_file, location, alone)
    if known is not None:
        if not os.path.isdir(location):
            _download(location, revision, CARD, field)
        return ModelSource(model, location, revision, known.class_name, field, weights=known.names, index=CARD)
    index = _read_json(model, location, revision, index_file, field)
    names = [index.get("_class_name")] if index_file == "model_index.json" else index.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise UserError(f"{field}: {index_file} of {model!r} names no model class; save the model with save_pretrained")
    files = next((one.names for one in alone if one.class_name == names[0]), ())
    return ModelSource(model, location, revision, names[0], field, weights=files, index=index_file)


def _read_json(model: str, location: str, revision: str | None, filename: str, field: str) -> Json:
    path = Path(location) / filename
    if not os.path.isdir(location):
        path = _download(location, revision, filename, field)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{field}: {model!r} has no {filename}; give a folder made by save_pretrained") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{field}: {filename} of {model!r} cannot be read ({error}); save the model again") from error
    if not isinstance(content, dict):
        raise UserError(f"{field}: {filename} of {model!r} is not a JSON object; save the model again")
    for key, value in _integers(content):
        if ("layers" in key or key == "depth") and value > MOST_LAYERS:
            raise UserError(f"{field}: {filename} of {model!r} asks for {value} {key}; save the model again")
    return content


def _integers(tree: Json) -> Iterator[tuple[str, int]]:
    """Every integer of a JSON tree, with the key that it or the list around it has."""
    left: list[tuple[str, object]] = [("", tree)]
    while left:
        key, value = left.pop()
        if isinstance(value, int):
            yield key, value
        elif isinstance(value, dict | list):
            left += value.items() if isinstance(value, dict) else ((key, item) for item in value)


def _download(hub_id: str, revision: str | None, filename: str, field: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(hub_id, filename, revision=revision))
    except HUB_ERRORS as error:
        why = "the Hub is out of reach" if isinstance(error, LocalEntryNotFoundError) else reason(error)
        raise UserError(
            f"{field}: {hub_id!r} is no folder here, and its {filename} is neither in the Hub's cache nor available "
            f"({why}); check the name and the revision, or fetch the model first with "
            f"`{download_command(hub_id, revision)}` (a gated one after `hf auth login`)"
        ) from error


def download_command(hub_id: str, revision: str | None) -> str:
    """The command that fetches a Hub model into the cache."""
    return f"hf download {hub_id}" + (f" --revision {revision}" if revision else "")


def built_in(section: str, name: str, revision: str) -> str | None:
    """The version of a built-in model whose weights have a revision.

    Args:
        section: ``generators``, ``scorers`` or ``judges``.
        name: its name in any version.

    Returns:
        its name in that version; ``None`` where there is none, or ``name`` is another model.
    """
    for version in versions(section, name):
        if _folder_fingerprint(weights(NAMES[section][version])) == revision:
            return version
    return None


def licence(model: str, revision: str | None) -> str | None:
    """A model's licence as its card states it; ``None`` where there is no card.

    The card is the ``README.md`` of a local folder or a Hub model. Where it says "other", the licence's name counts.
    """
    from huggingface_hub import hf_hub_download, metadata_load

    card = user_path(model) / CARD
    try:
        if not card.is_file() and _HUB_ID.match(model) and not Path(model).exists():
            card = Path(hf_hub_download(model, CARD, revision=revision))
        metadata = (metadata_load(card) if card.is_file() else None) or {}
    except (*HUB_ERRORS, yaml.YAMLError):  # no connection, no card, or a card that is not one
        return None
    stated = metadata.get("license_name") if metadata.get("license") == "other" else metadata.get("license")
    return stated if isinstance(stated, str) else None


def _folder_fingerprint(folder: Path, pickled: Iterable[str] = ()) -> str:
    suffixes = {".json", ".safetensors", ".model", *pickled}
    return fingerprint([path for path in folder.rglob("*") if path.suffix in suffixes], folder)


def fingerprint(files: Iterable[Path], root: Path) -> str:
    """A hash of files: of their names below ``root``, their sizes, and both ends of their content."""
    sha = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        size = path.stat().st_size
        sha.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            sha.update(file.read(_EDGE))
            if size > _EDGE:
                file.seek(max(_EDGE, size - _EDGE))
                sha.update(file.read(_EDGE))
    return f"local-{sha.hexdigest()[:16]}"
