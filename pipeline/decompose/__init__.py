"""Writes a corpus with a column of questions about each prompt's parts: by a served language model, or by rules."""

from noisesmith.pipeline.decompose.ask import Asker, Decomposed, Origin, by_rules
from noisesmith.pipeline.decompose.write import Summary, write_questions

__all__ = ["Asker", "Decomposed", "Origin", "Summary", "by_rules", "write_questions"]
