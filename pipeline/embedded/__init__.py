"""The built-in models: a tiny Stable Diffusion, a tiny LLaVA and a judge, and the world of emoji that they know."""

from pathlib import Path

MODELS = ("sd", "vlm", "judge")
WEIGHTS = Path(__file__).parent / "weights"


def weights(name: str) -> Path:
    """Folder of a shipped model: ``sd`` (StableDiffusionPipeline), ``vlm`` (Llava) or ``judge``.

    Raises:
        ValueError: ``name`` is none of these.
    """
    if name not in MODELS:
        raise ValueError(f"no built-in model {name!r}: choose one of {', '.join(MODELS)}")
    return WEIGHTS / name
