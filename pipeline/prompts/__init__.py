"""Corpora: where prompts come from. A corpus is checked once in full and then streamed."""

from noisesmith.pipeline.prompts.corpus import Corpus
from noisesmith.pipeline.prompts.opening import open_corpus
from noisesmith.pipeline.prompts.prompt import prompt_problem

__all__ = ["Corpus", "open_corpus", "prompt_problem"]
