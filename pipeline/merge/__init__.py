"""Joins the partitions of a dataset, which independent runs have made, into one run; no shard is written again."""

from noisesmith.pipeline.merge.merging import Merged, merge

__all__ = ["Merged", "merge"]
