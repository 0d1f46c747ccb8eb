"""Corpora: where prompts come from, checked once in full and then streamed."""

from noisesmith.pipeline.prompts.corpus import Corpus, open_corpus
from noisesmith.pipeline.records import index_of, row_id

__all__ = ["Corpus", "index_of", "open_corpus", "row_id"]
