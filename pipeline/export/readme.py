"""``README.md`` of an export: where it comes from, what it holds, what was dropped, how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from noisesmith.pipeline.export.format import Format
from noisesmith.pipeline.export.options import ExportOptions
from noisesmith.pipeline.export.select import Selection
from noisesmith.pipeline.export.source import Source


def readme(source: Source, options: ExportOptions, to: Format, selection: Selection, written: Mapping[str, int]) -> str:
    """Return the file as Markdown."""
    header = source.manifest.header
    corpora = [f"`{part.corpus_digest[:16]}`" for part in source.manifest.parts if not part.parents]
    lines = [
        "---",
        "tags: [noisesmith, synthetic]",
        "annotations_creators: [machine-generated]",
        "---",
        "",
        f"# Export of a noisesmith run as {options.to}",
        "",
        f"Read by {to.consumers}.",
        "",
        f"noisesmith let `{header.config.get('generators.model')}` make the images and searched their initial noise "
        f"(`{header.config.get('optimizer.method')}`). The run's config has the digest `{header.config_digest[:16]}`, "
        f"its {'corpus' if len(corpora) == 1 else 'corpora'} {', '.join(corpora)}.",
        "",
        "| split | rows |",
        "|---|---|",
    ]
    lines += [f"| {split} | {count:,} |" for split, count in written.items()]
    if len(written) > 1:
        lines += ["", "No prompt is in two splits."]
    lines += ["", f"Of {source.size:,} rows of the run, {sum(written.values()):,} are here."]
    if selection.dropped:
        lines += ["", "| not exported | rows |", "|---|---|"]
        lines += [f"| {reason} | {count:,} |" for reason, count in selection.dropped.items()]
    if options.where is not None:
        lines += ["", "The condition:", "", "```python", " ".join(options.where.split()), "```"]
    if to.notes:
        lines += ["", *to.notes]
    lines += ["", "## Load it", "", to.usage()]
    return "\n".join(lines) + "\n"
