"""The built-in models and the world of emoji that they know.

A tiny Stable Diffusion, two scorers (a LLaVA and a Qwen2-VL), and two detectors: the judge and another. Below ``v1``
are the models of the first version, for runs that were made with them.
"""

from pathlib import Path

MODELS = ("sd", "vlm", "qwen", "judge", "detector", "v1/sd", "v1/vlm", "v1/judge")
WEIGHTS = Path(__file__).parent / "weights"
# The names that a config calls them by in each section, and their folders.
NAMES = {
    "generators": {"embedded": "sd", "embedded/v1": "v1/sd"},
    "scorers": {"embedded": "vlm", "embedded/qwen": "qwen", "embedded/v1": "v1/vlm"},
    "judges": {"embedded/judge": "judge", "embedded/detector": "detector", "embedded/v1/judge": "v1/judge"},
}


def weights(name: str) -> Path:
    """Folder of a shipped model, one of :data:`MODELS`.

    Raises:
        ValueError: there is no such model.
    """
    if name not in MODELS:
        raise ValueError(f"no built-in model {name!r}: choose one of {', '.join(MODELS)}")
    return WEIGHTS / name


def newest(name: str) -> str:
    """The name without a version: what the model was called while it was the newest; other names as they are."""
    return name.replace("embedded/v1", "embedded", 1) if name.startswith("embedded/v1") else name


def versions(section: str, name: str) -> list[str]:
    """All names of a built-in model, one per version and the newest first; none for another model.

    Args:
        section: ``generators``, ``scorers`` or ``judges``.
    """
    return [one for one in NAMES[section] if newest(one) == newest(name)]
