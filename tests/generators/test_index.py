"""A model_index.json that does not say which classes a model's text encoders are of, and a tokenizer that panics."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from noisesmith.pipeline.config import GeneratorConfig, RunConfig
from noisesmith.pipeline.embedded import weights
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.generators import find_generator, load_generator
from noisesmith.pipeline.lengths import list_lengths
from noisesmith.pipeline.prompts import open_corpus


@pytest.mark.parametrize(
    ("entry", "named"),
    [(["transformers"], "has ['transformers'] as text_encoder"), (["transformers", "NoModel"], "no class NoModel")],
)
def test_a_text_encoder_without_a_class(
    entry: list[str], named: str, families: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(families["sd1"], tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder": entry}))
    with pytest.raises(UserError) as caught:
        load_generator(find_generator(GeneratorConfig(model=str(folder))), "cpu")
    assert named in str(caught.value)


def test_a_tokenizer_that_panics_is_named_in_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(weights("v1/sd"), tmp_path / "model"))
    path = folder / "tokenizer" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["post_processor"]["special_tokens"] = {}
    path.write_text(json.dumps(tokenizer))
    (tmp_path / "prompts.txt").write_text("a cat\n")
    config = RunConfig.model_validate(
        {"generators": {"model": str(folder)}, "corpus": {"source": str(tmp_path / "prompts.txt")}}
    )
    lines = list_lengths(config, find_generator(config.generators), {}, open_corpus(config))
    assert lines["generators.model"][0].startswith("unknown (")
    assert capfd.readouterr().err == ""
