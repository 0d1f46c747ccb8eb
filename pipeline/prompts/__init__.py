"""Corpora: where prompts come from, checked once in full and then streamed."""

from pipeline.prompts.corpus import Corpus, open_corpus
from pipeline.prompts.ids import index_of, row_id

__all__ = ["Corpus", "index_of", "open_corpus", "row_id"]
