"""Further parts of a finished run: more prompts, or further rounds for searches that ended below a score."""

from noisesmith.pipeline.extend.extension import Extension, find_extension
from noisesmith.pipeline.extend.parts import open_parts, parts_to_make

__all__ = ["Extension", "find_extension", "open_parts", "parts_to_make"]
