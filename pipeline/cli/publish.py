"""``noisesmith publish``: upload a finished run to the Hugging Face Hub."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noisesmith.pipeline.cli.common import console, interruptible, local_path

if TYPE_CHECKING:
    from noisesmith.pipeline.publish import Plan

LocalRun = Annotated[Path, typer.Argument(metavar="RUN", help="A finished run, on this machine.", parser=local_path)]
Repository = Annotated[str, typer.Argument(metavar="REPO_ID", help="OWNER/NAME of the dataset on the Hub.")]
Private = Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the files and show the card. Sends nothing.")]
TokenEnv = Annotated[
    str | None,
    typer.Option("--token-env", metavar="NAME", help="Variable that holds a token; your Hub login by default."),
]
AllowPaths = Annotated[
    bool, typer.Option("--allow-paths", help="Publish rows although they name the local path or address of a model.")
]


def publish(
    run_dir: LocalRun,
    repository: Repository,
    private: Private = False,
    dry_run: DryRun = False,
    token_env: TokenEnv = None,
    allow_paths: AllowPaths = False,
) -> None:
    """Upload a finished run to the Hugging Face Hub, as a dataset that load_dataset opens by its name.

    The same command goes on after an interruption. docs/publishing.md says what is uploaded.
    """
    from huggingface_hub import get_token
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from noisesmith.pipeline.publish import hub_of, make_plan, upload

    plan = make_plan(run_dir, repository, allow_paths=allow_paths)
    if dry_run:
        _show(plan)
        return
    if not sys.stderr.isatty():
        disable_progress_bars()
    api = hub_of(os.environ.get(token_env) if token_env else get_token(), token_env)
    with interruptible("what was committed stays; run the same command to go on"):
        done = upload(plan, api, private=private, note=console.print)
    console.print(f"{done.url}: {len(plan.files)} files, checked; sent {done.files} in {done.commits} commits")


def _show(plan: Plan) -> None:
    for file in plan.files:
        console.print(f"{file.bytes:>14,} {file.path}")
    console.print(f"{len(plan.files)} files, {plan.bytes / 1e6:.1f} MB, in {plan.commits} commits; nothing was sent\n")
    card = plan.files[-1].content
    if isinstance(card, bytes):
        console.print(card.decode())
