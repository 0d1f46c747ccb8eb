"""``noisesmith export``: rows of a run in the forms that trainers read, one file per form."""

from noisesmith.pipeline.export.folder import leftovers
from noisesmith.pipeline.export.images import DEFAULT_QUALITY
from noisesmith.pipeline.export.options import ExportOptions, read_splits
from noisesmith.pipeline.export.run import Exported, export

__all__ = ["DEFAULT_QUALITY", "ExportOptions", "Exported", "export", "leftovers", "read_splits"]
