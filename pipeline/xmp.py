"""The machine-readable mark of synthetic media: an XMP packet in a PNG file."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL.PngImagePlugin import putchunk

from noisesmith.pipeline.records import Result

SYNTHETIC = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"  # IPTC's name for it
NAMESPACE = "https://noisesmith.invalid/xmp/1.0/"  # of the recipe's digest; a name, and no address
_AFTER_HEADER = 8 + 25  # signature and IHDR: a PNG file begins with both
# Keyword, and that the text is not compressed and has no language: PNG specification, section 11.3.3.4, and XMP part 3.
_ITXT = b"XML:com.adobe.xmp\0\0\0\0\0"
_PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:noisesmith="{namespace}"
    Iptc4xmpExt:DigitalSourceType="{kind}"
    noisesmith:RecipeDigest="{digest}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def mark_synthetic(png: bytes, recipe_digest: str) -> bytes:
    """Return a PNG file with the mark of synthetic media; no pixel changes.

    The mark holds constants and the digest alone, no date and no random id, so that equal files stay equal.

    Args:
        png: a file without an XMP packet.
        recipe_digest: that of the recipe of the image's row, as hexadecimal digits.

    Raises:
        ValueError: these bytes are no PNG file.
    """
    if png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR":
        raise ValueError("an image to mark as synthetic is no PNG file")
    packet = _PACKET.format(namespace=NAMESPACE, kind=SYNTHETIC, digest=recipe_digest)
    chunk = io.BytesIO()
    putchunk(chunk, b"iTXt", _ITXT + packet.encode())
    return png[:_AFTER_HEADER] + chunk.getvalue() + png[_AFTER_HEADER:]


def with_marks(result: Result) -> Result:
    """Return a finished row with all of its images marked. Equal images stay equal."""
    digest = result.recipe.digest
    first = None if result.image_initial is None else mark_synthetic(result.image_initial, digest)
    images = tuple(None if image is None else mark_synthetic(image, digest) for image in result.images)
    return replace(result, image=mark_synthetic(result.image, digest), image_initial=first, images=images)
