"""Corpora: where prompts come from. A corpus is checked once in full and then streamed."""

from noisesmith.pipeline.prompts.corpus import Corpus, open_corpus, prompt_problem

__all__ = ["Corpus", "open_corpus", "prompt_problem"]
