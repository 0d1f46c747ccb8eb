"""noisesmith: a list of prompts in, a dataset of images that really show what their prompts say out.

The public Python API. In a notebook::

    import noisesmith as ns

    results = ns.search(["a cat above a red car"], ns.RunConfig(optimizer={"rounds": 4}))
    results[0].image, results[0].score, results[0].recipe

``search`` and ``load`` work in this process, without Ray and without files. ``run`` makes a whole dataset on a Ray
cluster, ``read_rows`` and ``replay`` read one back. ``docs/python-api.md`` describes all of it.
"""

from noisesmith.pipeline import __version__
from noisesmith.pipeline.api import RunReport, Searcher, SearchResult, load, read_rows, replay, run, search
from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.errors import RunError, UserError
from noisesmith.pipeline.records import Recipe

__all__ = [
    "Recipe",
    "RunConfig",
    "RunError",
    "RunReport",
    "SearchResult",
    "Searcher",
    "UserError",
    "__version__",
    "load",
    "load_config",
    "read_rows",
    "replay",
    "run",
    "search",
]
