"""noisesmith: images that really show what their prompts say."""

from noisesmith.pipeline import __version__

__all__ = ["__version__"]
