"""The mark of synthetic media, read back with Exiv2 and with Pillow."""

from __future__ import annotations

import io
import re

import pyexiv2
import pytest
from PIL import Image

from noisesmith.pipeline.xmp import SYNTHETIC, mark_synthetic
from tests.sinks.conftest import png

DIGEST = "00112233445566778899aabbccddeeff"


def xmp_of(content: bytes) -> dict[str, str]:
    """The XMP properties of an image file, as Exiv2 reads them."""
    with pyexiv2.ImageData(content) as image:
        return image.read_xmp()


def test_an_independent_reader_finds_the_mark() -> None:
    found = xmp_of(mark_synthetic(png(1), DIGEST))
    assert found == {
        "Xmp.iptcExt.DigitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
        "Xmp.noisesmith.RecipeDigest": DIGEST,
    }
    assert found["Xmp.iptcExt.DigitalSourceType"] == SYNTHETIC
    assert xmp_of(png(1)) == {}


def test_it_changes_no_pixel() -> None:
    with Image.open(io.BytesIO(png(1))) as plain, Image.open(io.BytesIO(mark_synthetic(png(1), DIGEST))) as marked:
        assert "xmp" in marked.info
        assert marked.tobytes() == plain.tobytes()


def test_it_holds_no_date_and_no_random_id() -> None:
    assert mark_synthetic(png(1), DIGEST) == mark_synthetic(png(1), DIGEST)
    with Image.open(io.BytesIO(mark_synthetic(png(1), DIGEST))) as marked:
        packet = marked.info["xmp"].decode()
    assert re.search(r"uuid|xmpMM|Date|20\d\d-\d\d-\d\d", packet.replace("2008-02-29", "")) is None


@pytest.mark.parametrize("content", [b"", b"GIF89a", png(1)[1:]])
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="is no PNG file"):
        mark_synthetic(content, DIGEST)
