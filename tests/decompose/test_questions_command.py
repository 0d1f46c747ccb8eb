"""``noisesmith questions``: a corpus with questions by a real server process, by rules, and after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from noisesmith.pipeline.cli import main
from noisesmith.pipeline.decompose.ask import checked_questions
from noisesmith.pipeline.models import server
from noisesmith.pipeline.records import Question
from tests.prompts.corpora import corpus, write

PROMPTS = ["a red fox", "two dogs and a hat", "a nebula of dreams, 8k", "a fox above a box"]
Command = Callable[..., tuple[int, str]]
Serve = Callable[[str], str]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server in a mode and return its URL."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(server, "BACKOFF", 0.01)
    processes = []

    def start(mode: str) -> str:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("stub_server.py")), mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{int(process.stdout.readline())}/v1"

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``noisesmith questions`` in this process; the exit code, and all that it prints as one line."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["noisesmith", "questions", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        printed = capsys.readouterr()
        return code, " ".join(f"{printed.out} {printed.err}".split())

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    lines = [json.dumps({"prompt": prompt, "topic": number}) for number, prompt in enumerate(PROMPTS)]
    return write(tmp_path / "prompts.jsonl", "\n".join(lines))


def _read(path: Path) -> list[tuple[Question, ...]]:
    """The questions of the written corpus, read as a run reads it; its other columns are those of the source."""
    rows = list(corpus(path, questions="questions").rows())
    assert [row.prompt for row in rows] == PROMPTS
    assert [row.extra["topic"] for row in rows] == list(range(len(PROMPTS)))
    return [row.questions for row in rows]


def test_without_a_server_the_rules_split(command: Command, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "asked.parquet"
    code, printed = command(source, "--out", out)
    assert code == 0
    assert "4 rows, 3 by the rules, 1 without questions" in printed
    fox, dogs, nebula, _ = _read(out)
    assert fox == (Question("Is there a fox?", "Yes"), Question("Is the fox red?", "Yes"))
    assert Question("How many dogs are there?", "two") in dogs
    assert nebula == ()
    assert pq.read_schema(out).names == ["prompt", "questions", "topic"]


def test_a_model_is_asked_and_only_the_output_stays(
    command: Command, serve: Serve, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "asked.jsonl"
    code, printed = command(source, "--out", out, "--server", serve("good"), "--model", "tiny-llm")
    assert code == 0
    assert "4 by the model (0 at its second try), 0 by the rules" in printed
    assert _read(out) == [(Question(f"Is there {prompt}?", "Yes"),) for prompt in PROMPTS]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asked.jsonl", "prompts.jsonl"]


@pytest.mark.parametrize(
    ("mode", "counted"),
    [
        ("second", "4 by the model (4 at its second try), 0 by the rules, 0 without"),
        ("strange", "3 by the rules, 1 without questions"),
        ("chatty", "3 by the rules, 1 without questions"),
        ("thinking", "4 by the model (0 at its second try), 0 by the rules"),
        ("filter", "2 by the model (0 at its second try), 2 by the rules"),
    ],
)
def test_what_the_model_cannot_do_is_split_by_the_rules(
    command: Command, serve: Serve, source: Path, tmp_path: Path, mode: str, counted: str
) -> None:
    out = tmp_path / "asked.jsonl"
    _, printed = command(source, "--out", out, "--server", serve(mode))
    assert counted in printed
    assert "unicorn" not in out.read_text()


def test_a_server_that_refuses_every_prompt_stops_the_command(
    command: Command, serve: Serve, source: Path, tmp_path: Path
) -> None:
    code, printed = command(source, "--out", tmp_path / "asked.jsonl", "--server", serve("closed"))
    assert code == 1
    assert "answers with status 400" in printed
    assert not (tmp_path / "asked.jsonl").exists()


def test_a_stopped_command_goes_on_with_what_is_missing(
    command: Command, serve: Serve, source: Path, tmp_path: Path
) -> None:
    """A server that is killed, a line that a kill has left half written, and a row that is done and not asked again."""
    out = tmp_path / "asked.jsonl"
    code, printed = command(source, "--out", out, "--server", serve("gone"))
    assert code == 1
    assert "run the same command to resume" in printed
    assert not out.exists()
    partial = tmp_path / "asked.jsonl.partial.jsonl"
    header = partial.read_text().splitlines()[0]
    kept = {"index": 1, "origin": "model", "questions": [{"question": "Is there a hat?", "answer": "Yes"}]}
    partial.write_text(f'{header}\n{json.dumps(kept)}\n{{"index": 2, "orig')
    code, _ = command(source, "--out", out, "--server", serve("good"))
    assert code == 0
    asked = _read(out)
    assert asked[1] == (Question("Is there a hat?", "Yes"),)
    assert asked[2] == (Question(f"Is there {PROMPTS[2]}?", "Yes"),)
    assert not partial.exists()


def test_questions_of_another_corpus_are_not_mixed_in(
    command: Command, serve: Serve, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "asked.jsonl"
    write(tmp_path / "asked.jsonl.partial.jsonl", '{"corpus": "another", "model": "tiny-llm"}\n')
    code, printed = command(source, "--out", out, "--server", serve("good"))
    assert code == 2
    assert "was started with another corpus or model; remove the file, or give another --out" in printed


def test_a_config_chooses_and_renames_columns(command: Command, tmp_path: Path) -> None:
    write(tmp_path / "p.csv", "id,caption\n7,a red fox\n")
    section = f"corpus: {{source: {tmp_path}/p.csv, column: caption, columns: {{rename: {{id: item}}}}}}"
    config = write(tmp_path / "run.yaml", section)
    out = tmp_path / "asked.jsonl"
    assert command(config, "--out", out)[0] == 0
    asked = [Question("Is there a fox?", "Yes"), Question("Is the fox red?", "Yes")]
    listed = [{"question": question.question, "answer": question.answer} for question in asked]
    assert json.loads(out.read_text()) == {"caption": "a red fox", "questions": listed, "item": 7}


MISTAKES: dict[str, tuple[list[Any], str]] = {
    "a file of another kind": (["--out", "asked.csv"], "--out: asked.csv must end in .jsonl or .parquet"),
    "a folder that is not there": (["--out", "no/asked.jsonl"], "--out: no is no folder; make it first"),
    "a model without a server": (
        ["--out", "a.jsonl", "--model", "x"],
        "--model: is of a server; give --server",
    ),
    "a server that is no URL": (["--out", "a.jsonl", "--server", "localhost"], "--server: "),
    "a server that is not there": (["--out", "a.jsonl", "--server", "http://127.0.0.1:9/v1"], "--server: http://127"),
    "a URL with a key": (["--out", "a.jsonl", "--server", "http://u:secret@h/v1"], "--server: the URL of model must"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(
    command: Command, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, says = MISTAKES[mistake]
    code, printed = command(source, *arguments)
    assert (code, says in printed) == (2, True), printed


def test_a_column_of_that_name_is_not_replaced(command: Command, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", '{"prompt": "a fox", "questions": 3}\n')
    code, printed = command(path, "--out", tmp_path / "out.jsonl")
    assert (code, "has a column 'questions' already" in printed) == (2, True)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("none", "it holds no JSON list"),
        ("[{]", "it is not valid JSON"),
        ("[]", "the list is empty"),
        ('[{"question": "Is there a fox?", "answer": ""}]', "the answer of question 1 is empty"),
        (
            '[{"question": "Is the fox under a moon?", "answer": "Yes"}]',
            "the description does not name 'under'",
        ),
        ('[{"question": "Is it a picture?", "answer": "Yes"}]', "question 1 names nothing of the description"),
    ],
)
def test_an_answer_is_checked(answer: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        checked_questions(answer, "a red fox")
