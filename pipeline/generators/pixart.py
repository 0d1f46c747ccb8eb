"""PixArt-Sigma."""

from __future__ import annotations

from noisesmith.pipeline.generators.captured import CapturedAdapter


class PixArtSigma(CapturedAdapter):
    """Predicts the noise; T5 alone reads the prompt."""

    pipeline_class = "PixArtSigmaPipeline"
    fixed_text = True
    flow = False
    multiple = 8
