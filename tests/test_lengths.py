"""Prompts longer than the models read are counted, listed, written down or refused; never cut in silence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import noisesmith as ns
from noisesmith.pipeline import lengths
from noisesmith.pipeline.cli import main
from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.preflight import check_run
from noisesmith.pipeline.schema import row_schema
from noisesmith.pipeline.text.control_tokens import plain
from noisesmith.pipeline.text.limits import TextLimit
from noisesmith.pipeline.text.weighting import find_weighting
from tests import tiny, tiny_families
from tests.runs import write_config
from tests.test_subjects import clip_tokenizer

LONG = "a red cat above a blue dog on a car with a bowl under a cat and a dog"  # 19 tokens; the tiny encoder reads 14
TOKENIZERS = {"CLIP": clip_tokenizer(24), "words": tiny.tokenizer(24, template=True)}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(prompts=st.lists(st.text(st.sampled_from("ab cat dog<s>|ﷺİé❤ \t.,'1"), max_size=60), min_size=1, max_size=4))
def test_counting_less_gives_the_same_counts(name: str, prompts: list[str]) -> None:
    """Short ASCII prompts are not tokenised."""
    tokenizer: Any = TOKENIZERS[name]
    expected = []
    for prompt in prompts:
        ids = tokenizer(f"is it {plain(prompt, tokenizer)} ?").input_ids
        expected.append(max(0, len(ids) - 24))
    assert TextLimit("encoder", 24, tokenizer, template="is it {prompt} ?").excess(prompts) == expected


def _plan(path: Path, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["noisesmith", "plan", str(path), *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_a_plan_lists_what_each_model_does_not_read(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = str(tiny_families.clip(tmp_path / "clip"))
    judges = [{"name": "similar", "model": judge}, {"name": "eye", "model": "embedded/judge"}]
    path = write_config(tmp_path, tiny_sd, tiny_llava, judges=judges, generators={"negative_prompt": LONG})
    (tmp_path / "prompts.txt").write_text(f"a cat\n{LONG}\na dog\n{LONG} {LONG}\n")
    assert _plan(path, monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    about = {line.split()[2]: line.split(maxsplit=3)[3] for line in lines if line.startswith("prompts for")}
    assert about["generators.model"] == (
        "text_encoder reads 16 tokens: 2 of 4 prompts truncated, by up to 24 tokens; "
        "the negative prompt is truncated by 5 tokens"
    )
    assert about["scorers.model"] == "language model reads 508 tokens: no prompt is longer"
    assert about["judges.similar"] == "text model reads 16 tokens: 2 of 4 prompts truncated, by up to 24 tokens"
    assert about["judges.eye"] == "the model's own limit, unknown here"


@pytest.mark.parametrize(
    ("prompt", "weighting"),
    [
        ("a (red cat:1.3) on a car", "(red cat:1.3)"),
        ("a ((red)) cat", "((red))"),
        ("a cat [[on a car]]", "[[on a car]]"),
        ("a cat <lora:style:0.8>", "<lora:style:0.8>"),
        ("a cat (red) at 12:30", None),
        ("a [red] cat (see: 3)", None),
    ],
)
def test_the_weighting_syntax_of_web_uis_is_recognised(prompt: str, weighting: str | None) -> None:
    assert find_weighting(prompt) == weighting


def test_a_plan_says_once_that_weights_in_prompts_are_plain_text(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, tiny_sd, tiny_llava)
    (tmp_path / "prompts.txt").write_text("a cat\na (dog:1.2)\n((a car))\n")
    assert _plan(path, monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert shown.count("2 of 3 prompts have weights such as '(dog:1.2)', which is read as plain text") == 1
    (tmp_path / "prompts.txt").write_text("a cat\n")
    assert _plan(path, monkeypatch=monkeypatch) == 0
    assert "prompt syntax" not in capsys.readouterr().out


def test_a_plan_of_a_long_corpus_says_which_prompts_it_has_counted(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lengths, "LISTED", 2)
    path = write_config(tmp_path, tiny_sd, tiny_llava)
    (tmp_path / "prompts.txt").write_text(f"a cat\n{LONG}\n{LONG}\n")
    assert _plan(path, monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "1 of the first 2 prompts truncated, by up to 5 tokens" in shown
    assert "reads 508 tokens: none of the first 2 prompts is longer" in shown


def test_long_prompts_are_refused_where_the_config_says_so(
    tmp_path: Path, tiny_sd: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, tiny_sd, tiny_llava, generators={"max_prompt_tokens": "refuse"})
    assert _plan(path, monkeypatch=monkeypatch) == 0
    capsys.readouterr()
    assert _plan(path, f"generators.negative_prompt={LONG}", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.startswith("error: generators.negative_prompt: no text encoder reads its last 5 ")
    (tmp_path / "prompts.txt").write_text(f"a cat\n{LONG}\n")
    assert _plan(path, monkeypatch=monkeypatch) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: row 1 of the corpus ('a red cat above")
    assert "reads its last 5 tokens, and generators.max_prompt_tokens is refuse; shorten it, or set" in message
    assert message.count("\n") == 1
    assert _plan(path, "generators.max_prompt_tokens=cut", monkeypatch=monkeypatch) == 0


@pytest.mark.parametrize("method", ["initno", "attend_and_excite"])
def test_a_listed_subject_that_is_not_read_is_refused_before_the_run_and_a_found_one_is_not(
    method: str, tmp_path: Path, tiny_sd: Path, tiny_llava: Path
) -> None:
    (tmp_path / "p.csv").write_text(f'prompt,nouns\na cat,cat\n{LONG},"cat,dog"\n{LONG} and a bow,"cat,bow"\n')
    path = write_config(tmp_path, tiny_sd, tiny_llava, optimizer={"method": method})
    config = ns.load_config(path, [f"optimizer={{method: {method}}}", f"corpus=[{{source: {tmp_path / 'p.csv'}}}]"])
    check_run(config)
    section = {"source": str(tmp_path / "p.csv"), "subjects": "nouns"}
    listed = RunConfig.model_validate(config.model_dump() | {"corpus": [section]})
    with pytest.raises(UserError, match=r"^row 2 of the corpus: corpus\.subjects: 'bow' lies beyond the 16 tokens"):
        check_run(listed)


def test_every_row_says_how_many_tokens_were_cut(tiny_sd: Path, tiny_llava: Path) -> None:
    plain_config = {
        "generators": {"model": str(tiny_sd), "steps": 2, "batch_size": 2},
        "scorers": {"model": str(tiny_llava)},
        "optimizer": {"rounds": 1, "candidates": 2},
    }
    config = RunConfig.model_validate(plain_config)
    with ns.load(config, device="cpu") as searcher:
        found = searcher.search(["a cat", LONG], progress=False)
        assert [one.result.prompt_tokens_cut for one in found] == [0, 5]
    plain_config["generators"]["max_prompt_tokens"] = "refuse"  # type: ignore[index]
    with ns.load(RunConfig.model_validate(plain_config), device="cpu") as searcher:
        searcher.search(["a cat"], progress=False)
        with pytest.raises(UserError, match=r"^prompts: number 1: no text encoder reads its last 5 tokens"):
            searcher.search(["a cat", LONG], progress=False)


def test_the_choice_changes_no_row_so_it_disowns_no_run() -> None:
    cut, refuse = (RunConfig.model_validate({"generators": {"max_prompt_tokens": mode}}) for mode in ("cut", "refuse"))
    assert cut.digest() == refuse.digest()
    assert row_schema(cut, pa.schema([])).field("prompt_tokens_cut").type == pa.int32()
