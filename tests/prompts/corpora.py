"""Small corpora in files, for tests of what is read from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.prompts import Corpus, open_corpus, prompt_problem

PROMPT_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(
    lambda text: prompt_problem(text, 2000) is None
)
FILES_ONCE = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def corpus(source: Path | str, **section: Any) -> Corpus:
    top = {"max_prompt_chars": section.pop("max_prompt_chars", 2000)}
    return open_corpus(RunConfig.model_validate({"corpus": {"source": str(source), **section}, **top}))


def prompts(opened: Corpus) -> list[str]:
    return [row.prompt for row in opened.rows()]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
