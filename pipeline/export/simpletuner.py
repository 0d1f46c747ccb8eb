"""``simpletuner``: the folder of ``captions`` with SimpleTuner's own file."""

from __future__ import annotations

import json

from noisesmith.pipeline.export.captions import FOLDERS, STARTED_HERE, Captions
from noisesmith.pipeline.export.options import TRAIN


class SimpleTuner(Captions):
    """``images/ID.png``, ``images/ID.txt`` and ``multidatabackend.json``."""

    consumers = "SimpleTuner"

    def write_config(self) -> None:
        name = self.options.out.absolute().name
        width, height = self.largest
        images = {
            "id": name,
            "type": "local",
            "dataset_type": "image",
            "instance_data_dir": FOLDERS[TRAIN],
            "caption_strategy": "textfile",
            "metadata_backend": "discovery",
            "cache_dir_vae": "cache/vae",
            "crop": False,
            "resolution": round((width * height) ** 0.5),
            "resolution_type": "pixel_area",
            "repeats": 0,
        }
        texts = {
            "id": f"{name}-text-embeds",
            "type": "local",
            "dataset_type": "text_embeds",
            "default": True,
            "cache_dir": "cache/text",
        }
        text = json.dumps([images, texts], indent=2, ensure_ascii=False)
        (self.folder / "multidatabackend.json").write_text(text + "\n", encoding="utf-8")

    def usage(self) -> str:
        return f"SimpleTuner: `--data_backend_config=multidatabackend.json`. {STARTED_HERE}"
