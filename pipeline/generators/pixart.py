"""PixArt-Sigma."""

from __future__ import annotations

from noisesmith.pipeline.generators.captured import CapturedAdapter
from noisesmith.pipeline.generators.conditioning import join_rows


class PixArtSigma(CapturedAdapter):
    """Predicts the noise; T5 alone reads the prompt."""

    pipeline_class = "PixArtSigmaPipeline"
    join_text = staticmethod(join_rows)
    flow = False
    multiple = 8
