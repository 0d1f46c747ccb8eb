"""One hostile case: made in a folder of its own, given to the real command, and judged."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any
from unittest import mock

import yaml

from noisesmith.pipeline import cli
from noisesmith.pipeline.config import RunConfig, load_config
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.load import load_models
from noisesmith.pipeline.prompts import Corpus
from noisesmith.pipeline.records import NoiseStats, Provenance, Recipe, Result, Row
from noisesmith.pipeline.sinks import RunState, verify_run
from tests.fuzz.corpora import columns, write_corpus
from tests.fuzz.models import MODEL, damage_model
from tests.fuzz.mutations import mutated_config, override, plain_config, value
from tests.fuzz.paths import move_corpus, set_output
from tests.runs import PATIENCE
from tests.writing import RunWriter

WRITTEN = 64  # larger corpora are read to their end, but not written
ONE_SENTENCE = re.compile(r"error: [^\n]*\n")
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)
PROVENANCE = Provenance("m", "g", "r", "s", "r", "yes")


class Hang(BaseException):
    """No ``except Exception`` may swallow it."""


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code and what it said, and what of that breaks a promise."""

    code: object
    said: str
    fault: str | None


def make_case(seed: int, number: int, folder: Path) -> list[str]:
    """Write the files of one case into ``folder``; returns the command's arguments. The same numbers, the same case."""
    random = Random(f"{seed} {number}")
    kind = random.choices(("config", "corpus", "model"), (45, 45, 10))[0]
    config = plain_config(random, local=kind != "config" or random.random() < 0.7)
    if kind == "model":
        damage_model(random, config, folder)
    if kind == "corpus":
        source = write_corpus(random, folder)
        section: dict[str, Any] = {"source": move_corpus(random, source) if random.random() < 0.15 else source}
        if random.random() < 0.25:
            section["columns"] = columns(random)
        if random.random() < 0.1:
            field = random.choice(("column", "subjects", "questions", "size", "split", "revision", "seed", "config"))
            section[field] = value(random)
        config["corpus"] = [section]
    arguments = ["config.yaml"]
    if random.random() < 0.15:
        set_output(random, config, arguments)
    content = yaml.safe_dump(config).encode()
    if kind == "config" or random.random() < 0.1:
        content = mutated_config(random, config)
    (folder / "config.yaml").write_bytes(content)
    overrides = [override(random) for _ in range(random.choice((0,) * 9 + (1, 2)))]
    return [*arguments, *(text for text in overrides if not text.startswith("-"))]


def check_case(seed: int, number: int, folder: Path) -> list[Outcome]:
    """Make one case in ``folder``; give it to ``plan``, and twice to ``run``, of which only the search is left out.

    The home folder is ``folder``, so that what ``~`` names is seen too.
    """
    with contextlib.chdir(_inner(folder)), mock.patch.dict(os.environ, HOME=str(folder)):
        arguments = make_case(seed, number, Path())
        outcomes = [_command(verb, arguments, folder) for verb in ("plan", "run", "run")]
        if outcomes[0].code == 0 and os.path.isdir(MODEL):
            outcomes[0] = replace(outcomes[0], fault=outcomes[0].fault or _loading_fault(arguments))
        return outcomes


def check_process(seed: int, number: int, folder: Path) -> Outcome:
    """Make one case in ``folder`` and give it to ``plan`` as a shell does."""
    inner = _inner(folder)
    with contextlib.chdir(inner):
        arguments = make_case(seed, number, Path())
    command = [sys.executable, "-c", "from noisesmith.pipeline.cli import main; main()", "plan", *arguments]
    environment = {**os.environ, "HOME": str(folder)}
    ended = subprocess.run(command, cwd=inner, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE)
    return Outcome(ended.returncode, ended.stderr, judge(ended.returncode, ended.stderr))


def _inner(folder: Path) -> Path:
    """Where the case lies: paths with .. in them stay below ``folder``."""
    inner = folder / "a" / "b" / "c"
    inner.mkdir(parents=True)
    return inner


def _command(verb: str, arguments: list[str], folder: Path) -> Outcome:
    before = _files(folder)
    code, out, err, trouble = _call(verb, arguments)
    new = _files(folder) - before
    if trouble is None:
        trouble = judge(code, err)
    if trouble is None and new and (verb == "plan" or code == 2):
        trouble = f"it wrote {sorted(new)[:3]}"
    if any(Path(name).name == "pwned" for name in new):
        trouble = "it ran code of its input"
    return Outcome(code, err or out, trouble and f"{verb} {arguments}: {trouble}\n{out}{err}")


def judge(code: object, err: str) -> str | None:
    """Whether an ended command broke a promise; stderr has one sentence, and none if nothing is wrong."""
    if code not in (0, 2):
        return f"exit code {code}"
    if code == 2 and not ONE_SENTENCE.fullmatch(err):
        return "no one sentence on stderr"
    return "words on stderr" if code == 0 and err else None


def _loading_fault(arguments: list[str]) -> str | None:
    """What goes wrong where the damaged model of a case is loaded: it works, or is refused."""
    try:
        with _limited():
            load_models(load_config(arguments[0]), "cpu")
    except UserError:
        return None
    except BaseException:
        return f"load_models {arguments}: {traceback.format_exc()}"
    return None


def _call(verb: str, arguments: list[str]) -> tuple[object, str, str, str | None]:
    """Exit code, stdout, stderr, and what went wrong, such as a traceback."""
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    trouble = None
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _descriptor_2() as beneath,
        warnings.catch_warnings(record=True) as warned,
        mock.patch.object(sys, "argv", ["noisesmith", verb, *arguments]),
        mock.patch("noisesmith.pipeline.cli.make._drive", _write_rows),
        mock.patch.object(os, "fsync"),
        _limited(),
    ):
        warnings.simplefilter("default")
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            trouble = traceback.format_exc()
    loud = [str(one.message) for one in warned if not issubclass(one.category, DeprecationWarning | ResourceWarning)]
    return code, out.getvalue(), err.getvalue() + "".join(beneath), trouble or (f"warnings {loud}" if loud else None)


@contextlib.contextmanager
def _descriptor_2() -> Iterator[list[str]]:
    """What goes to stderr past ``sys.stderr``, as from loggers made earlier and native code; filled at the end."""
    said: list[str] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            said.append(file.read())


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)  # a command that takes longer counts as hanging
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _write_rows(config: RunConfig, corpus: Corpus, state: RunState) -> bool:
    """In place of the search: every row is read, and those of a small corpus are written with an image made up.

    Returns:
        whether any row has succeeded, which is true of those that are not written too.
    """
    rows = list(corpus.rows(skip=state.done))
    assert len({row.id for row in rows}) == len(rows) == corpus.size - len(state.done)
    if corpus.size > WRITTEN:
        return True
    writer = RunWriter(state.run_dir, corpus.extra_schema, corpus.size, PROVENANCE)
    for row in rows:
        writer.put(_result(row, config))
    writer.finish()
    problems = verify_run(state.run_dir)
    assert not problems, problems
    return True


def _result(row: Row, config: RunConfig) -> Result:
    return Result(
        row=row,
        image=PNG,
        image_initial=PNG,
        width=1,
        height=1,
        scores=(0.5,),
        steps=(2,),
        evaluations=(2.0,),
        score=0.5,
        rounds=0,
        stop_reason="rounds",
        judges={judge.name: (0.5, 0.5) for judge in config.judges},
        seed=config.seed,
        recipe=Recipe("none", config.seed, (1, 1, 1), (), (), (), 1, 2, 1, "00"),
        noise=NoiseStats(0.0, 1.0, 1.0, 0.1),
        noise_fp16=b"00" if config.stores_noise else None,
    )


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
