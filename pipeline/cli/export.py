"""``noisesmith export``: write rows of a run in the form that a trainer reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noisesmith.pipeline.cli.common import RunDir, console, interruptible, local_path

To = Annotated[
    str, typer.Option("--to", metavar="FORMAT", help="imagefolder, captions, simpletuner, webdataset, dpo or noise.")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.", parser=local_path)]
Where = Annotated[
    str | None, typer.Option("--where", metavar="EXPR", help="Which rows, such as 'score >= .9 and accepted'.")
]
TopK = Annotated[int | None, typer.Option("--top-k", metavar="N", min=1, help="At most N images per prompt.")]
By = Annotated[
    str | None, typer.Option("--by", metavar="COLUMN", help="The column that ranks images; score by default.")
]
Split = Annotated[
    list[str] | None,
    typer.Option("--split", metavar="NAME=SHARE", help="A share of the prompts for val or test, such as val=0.02."),
]
Balance = Annotated[
    str | None,
    typer.Option("--balance", metavar="COLUMN", help="Give every split the same share of each value of a column."),
]
DropDuplicates = Annotated[
    bool, typer.Option("--drop-duplicates", help="Leave out images that are nearly the same as another one.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Another seed gives other splits.")]
ImageFormat = Annotated[
    str | None, typer.Option("--image-format", metavar="png|jpeg|webp", help="png, the run's own bytes, by default.")
]
ImageQuality = Annotated[
    int | None, typer.Option("--image-quality", metavar="Q", min=1, max=100, help="Of JPEG and WebP; 95 by default.")
]
FirstImages = Annotated[bool, typer.Option("--first-images", help="imagefolder: write first images too.")]

RowsPerShard = Annotated[
    int | None,
    typer.Option("--rows-per-shard", metavar="N", min=1, help="webdataset: samples per tar, 1,000 by default."),
]
Wids = Annotated[bool, typer.Option("--wids", help="webdataset: write wids.json, an index for random access.")]
Margin = Annotated[
    float | None, typer.Option("--margin", metavar="X", help="dpo: least difference between the images of a pair.")
]
Pairs = Annotated[
    str | None,
    typer.Option("--pairs", metavar="first|worst|A,B", help="dpo: kept image and first or worst, or two by number."),
]
NoiseFormat = Annotated[
    str | None, typer.Option("--noise-format", metavar="npz|safetensors", help="noise: npz by default.")
]


def export(
    run_dir: RunDir,
    to: To,
    out: Out,
    where: Where = None,
    top_k: TopK = None,
    by: By = None,
    split: Split = None,
    balance: Balance = None,
    drop_duplicates: DropDuplicates = False,
    seed: Seed = 0,
    image_format: ImageFormat = None,
    image_quality: ImageQuality = None,
    first_images: FirstImages = False,
    rows_per_shard: RowsPerShard = None,
    wids: Wids = False,
    margin: Margin = None,
    pairs: Pairs = None,
    noise_format: NoiseFormat = None,
) -> None:
    """Write rows of a run in the form that a trainer reads.

    The folder appears once it is whole. docs/export.md describes the formats.
    """
    from noisesmith.pipeline.export import ExportOptions, leftovers, read_splits
    from noisesmith.pipeline.export import export as write
    from noisesmith.pipeline.telemetry.console import search_progress

    options = ExportOptions(
        to=to,
        out=out,
        where=where,
        top_k=top_k,
        by=by,
        splits=read_splits(split or []),
        balance=balance,
        drop_duplicates=drop_duplicates,
        seed=seed,
        image_format=image_format,
        image_quality=image_quality,
        first_images=first_images,
        rows_per_shard=rows_per_shard,
        wids=wids,
        margin=margin,
        pairs=pairs,
        noise_format=noise_format,
    )
    for folder in leftovers(out):
        console.print(f"{folder}: was left by an export that was killed, or is one that is still at work")
    with interruptible("nothing is left of the export; run the same command to start again"):
        done = write(run_dir, options, search_progress)
    rows = ", ".join(f"{count} {name}" for name, count in done.rows.items())
    console.print(f"{out}: {sum(done.rows.values())} rows ({rows})")
    for reason, count in done.dropped.items():
        console.print(f"not exported: {count} {reason}")
    for note in done.notes:
        console.print(note)
