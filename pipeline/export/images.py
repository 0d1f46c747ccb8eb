"""The image files of an export: the run's PNG bytes as they are, or the same pixels in another format."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

IMAGE_FORMATS = {"png": "png", "jpeg": "jpg", "webp": "webp"}  # format → file extension
DEFAULT_QUALITY = 95


@dataclass(frozen=True)
class ImageEncoder:
    """Gives images another format; ``quality`` is that of JPEG and WebP, 1 to 100."""

    format: str = "png"
    quality: int = DEFAULT_QUALITY

    @property
    def extension(self) -> str:
        return IMAGE_FORMATS[self.format]

    def encode(self, png: bytes) -> bytes:
        """Return the file of an image. PNG bytes stay as they are; XMP metadata goes along into the other formats."""
        if self.format == "png":
            return png
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(png)) as image:
            options = {"quality": self.quality}
            if self.format == "jpeg":
                options["subsampling"] = 0  # colours at full resolution
            xmp = image.info.get("xmp")
            marks = {} if xmp is None else {"xmp": xmp}
            image.convert("RGB").save(buffer, self.format, **options, **marks)
        return buffer.getvalue()
