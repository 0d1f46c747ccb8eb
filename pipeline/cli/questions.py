"""``noisesmith questions``: write a corpus with questions about the parts of its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noisesmith.pipeline.cli.common import console, interruptible, local_path
from noisesmith.pipeline.config import RunConfig, check_server, load_config, validated
from noisesmith.pipeline.errors import UserError

if TYPE_CHECKING:
    from noisesmith.pipeline.decompose import Asker

_EVERY = 1000  # rows between two lines of progress


def questions(
    corpus: Annotated[
        str, typer.Argument(metavar="CORPUS", help="A file or dataset of prompts, or a run's YAML config.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="What is written, .jsonl or .parquet.", parser=local_path),
    ],
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="An OpenAI-compatible server, up to /v1.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="The model's name at the server.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", metavar="NAME", help="Environment variable that holds its key.")
    ] = None,
    column: Annotated[str, typer.Option("--column", metavar="NAME", help="The prompts' column.")] = "prompt",
    size: Annotated[int | None, typer.Option("--size", metavar="N", min=1, help="Rows to take.")] = None,
) -> None:
    """Split each prompt of a corpus into questions, and write the corpus with a column of them.

    A served language model is asked, and its questions are checked: each may name only what its prompt names. Where
    they fail twice, and without --server, rules split the prompt. The same command goes on where it was stopped.
    """
    from noisesmith.pipeline.decompose import write_questions
    from noisesmith.pipeline.prompts import open_corpus

    asker = _asker(server, model, api_key_env)
    settings = _settings(corpus, column, size)
    opened = open_corpus(settings)
    prompts = settings.corpus[0].column if len(settings.corpus) == 1 else "prompt"
    asked = 0

    def count() -> None:
        nonlocal asked
        asked += 1
        if asked % _EVERY == 0:
            console.print(f"asked about {asked:,} prompts")

    with interruptible():
        summary = write_questions(opened, prompts, out, asker, count)
    console.print(f"written {out}: {summary}")


def _settings(corpus: str, column: str, size: int | None) -> RunConfig:
    if corpus.endswith((".yaml", ".yml")):
        if column != "prompt" or size is not None:
            raise UserError("--column, --size: are in the corpus section of a config; change them there")
        return load_config(local_path(corpus))
    section: dict[str, Any] = {"source": corpus, "column": column}
    if size is not None:
        section["size"] = size
    return validated({"corpus": [section]}, "CORPUS")


def _asker(server: str | None, model: str | None, api_key_env: str | None) -> Asker | None:
    from noisesmith.pipeline.decompose import Asker
    from noisesmith.pipeline.models.server import find_server

    if server is None:
        for option, value in (("--model", model), ("--api-key-env", api_key_env)):
            if value is not None:
                raise UserError(f"{option}: is of a server; give --server its URL, such as http://host:8000/v1")
        return None
    try:
        check_server(server, model, api_key_env)
    except ValueError as error:
        raise UserError(f"--server: {error}") from None
    found = find_server(server, model, api_key_env, "--server", model_field="--model", key_field="--api-key-env")
    return Asker(found, api_key_env)
