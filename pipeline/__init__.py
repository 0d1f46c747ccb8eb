"""The work of one noisesmith run: corpora, noise search, generators, scorers, sinks. Imports no Ray."""

__version__ = "0.1.0"
