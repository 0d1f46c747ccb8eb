"""An export from its beginning to its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from noisesmith.pipeline.export.captions import Captions
from noisesmith.pipeline.export.dpo import Dpo
from noisesmith.pipeline.export.folder import check_out, whole_folder
from noisesmith.pipeline.export.format import Format
from noisesmith.pipeline.export.imagefolder import ImageFolder
from noisesmith.pipeline.export.noises import Noises
from noisesmith.pipeline.export.options import ExportOptions
from noisesmith.pipeline.export.readme import readme
from noisesmith.pipeline.export.select import Progress, Selection, nothing_left, select
from noisesmith.pipeline.export.simpletuner import SimpleTuner
from noisesmith.pipeline.export.source import Source
from noisesmith.pipeline.export.tars import WebDataset

WRITERS: dict[str, type[Format]] = {
    "imagefolder": ImageFolder,
    "captions": Captions,
    "simpletuner": SimpleTuner,
    "webdataset": WebDataset,
    "dpo": Dpo,
    "noise": Noises,
}


@dataclass(frozen=True)
class Exported:
    """What an export has written: rows per split, dropped rows by reason, sentences about what was changed."""

    rows: dict[str, int]
    dropped: dict[str, int]
    notes: list[str]


def export(run_dir: Path, options: ExportOptions, progress: Progress) -> Exported:
    """Write rows of a run in the form that a trainer reads. The run may still be at work.

    Rows pass through one by one; what stays in memory is a few dozen bytes per row that decide what is exported.

    Args:
        progress: given a number of images, yields ``advance(count)``, which is called as they are done.

    Raises:
        UserError: an option does not fit the run, the folder is not empty, no row is left, or a shard is damaged.
        RunError: the folder cannot be written.
    """
    source = Source.open(run_dir)
    check_out(options.out, run_dir)
    to = WRITERS[options.to](source, options)
    selection = select(source, options, to, progress)
    written = Counter(dict.fromkeys(options.split_names, 0))
    with whole_folder(options.out) as folder:
        to.open(folder, {name: selection.splits.count(1 + number) for number, name in enumerate(options.split_names)})
        with progress(selection.size) as advance:
            for position, row in source.rows(list(to.reads), selection.splits):
                _add(to, selection, written, row, options.split_names[selection.splits[position] - 1])
                advance(1)
        if not written.total():
            raise nothing_left(source, selection)
        to.finish()
        text = readme(source, options, to, selection, written)
        (folder / "README.md").write_text(text, encoding="utf-8")
    return Exported(dict(written), selection.dropped, to.notes)


def _add(to: Format, selection: Selection, written: Counter[str], row: dict[str, object], split: str) -> None:
    refusal = to.add(row, split)
    if refusal is None:
        written[split] += 1
    else:
        selection.drop(refusal)
