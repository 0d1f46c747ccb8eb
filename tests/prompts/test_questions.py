"""What is read from a column of questions, and what is refused there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.prompts.questions import question_list
from noisesmith.pipeline.records import Question
from tests.density import ROOT
from tests.prompts.corpora import PROMPT_TEXT, corpus, write

ASKED = [{"question": "Is there a cat?", "answer": "Yes"}, {"question": "How many cars are there?", "answer": "one"}]
EXPECTED = (Question("Is there a cat?", "Yes"), Question("How many cars are there?", "one"))
PAIRS = [list(item.values()) for item in ASKED]


def _parquet(path: Path, asked: Any) -> None:
    pq.write_table(pa.table({"prompt": ["a cat", "a dog"], "asked": [asked, None]}), path)


def _jsonl(path: Path, asked: Any) -> None:
    write(path, json.dumps({"prompt": "a cat", "asked": asked}) + "\n" + json.dumps({"prompt": "a dog"}) + "\n")


def _csv(path: Path, asked: Any) -> None:
    pd.DataFrame({"prompt": ["a cat", "a dog"], "asked": [json.dumps(asked), ""]}).to_csv(path, index=False)


class TestLayouts:
    @pytest.mark.parametrize("asked", [ASKED, PAIRS, json.dumps(ASKED), [item | {"skill": 3} for item in ASKED]])
    @pytest.mark.parametrize("save", [_parquet, _jsonl])
    def test_every_layout_gives_the_same_questions(self, tmp_path: Path, save: Any, asked: Any) -> None:
        path = tmp_path / f"p.{save.__name__.strip('_')}"
        save(path, asked)
        first, second = corpus(path, questions="asked").rows()
        assert first.questions == EXPECTED
        assert second.questions == ()

    def test_a_table_has_them_as_json_text(self, tmp_path: Path) -> None:
        _csv(tmp_path / "p.csv", PAIRS)
        first, second = corpus(tmp_path / "p.csv", questions="asked").rows()
        assert (first.questions, second.questions) == (EXPECTED, ())

    def test_mixed_layouts_become_json_text_and_are_read(self, tmp_path: Path) -> None:
        lines = [
            {"prompt": "a cat", "asked": ASKED},
            {"prompt": "a dog", "asked": PAIRS},
            {"prompt": "a cow", "asked": []},
        ]
        path = write(tmp_path / "p.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        opened = corpus(path, questions="asked")
        assert opened.as_json == ("asked",)
        assert [row.questions for row in opened.rows()] == [EXPECTED, EXPECTED, ()]

    @given(st.lists(st.tuples(PROMPT_TEXT, PROMPT_TEXT)))
    def test_any_text_arrives_exactly(self, pairs: list[tuple[str, str]]) -> None:
        expected = tuple(Question(*pair) for pair in pairs)
        assert question_list(json.dumps(pairs)) == expected
        assert question_list([{"question": text, "answer": answer} for text, answer in pairs]) == expected


class TestTheColumn:
    def test_is_written_like_any_other_under_its_new_name(self, tmp_path: Path) -> None:
        _jsonl(tmp_path / "p.jsonl", ASKED)
        first, _ = corpus(tmp_path / "p.jsonl", questions="asked", columns={"rename": {"asked": "vqa"}}).rows()
        assert first.extra == {"vqa": ASKED}
        assert first.questions == EXPECTED

    def test_does_not_change_the_digest_of_the_corpus(self, tmp_path: Path) -> None:
        _jsonl(tmp_path / "p.jsonl", ASKED)
        assert corpus(tmp_path / "p.jsonl", questions="asked").digest == corpus(tmp_path / "p.jsonl").digest

    def test_must_be_kept(self, tmp_path: Path) -> None:
        _jsonl(tmp_path / "p.jsonl", ASKED)
        with pytest.raises(ValueError, match="leaves out 'asked', which lists the questions; keep that column"):
            corpus(tmp_path / "p.jsonl", questions="asked", columns={"drop": ["asked"]})


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("Is there a cat", 'holds "Is there a cat", which is no list in JSON'),
        (3, "holds 3 where a list of questions is expected"),
        (["Is there a cat"], 'question 1 is "Is there a cat", which is no question with its answer'),
        ([PAIRS[0], ["Is there?", "Yes", "No"]], "question 2 is .*, which is no question with its answer"),
        ([{"question": "Is there a cat?"}], "the answer of question 1 is missing"),
        ([{"answer": "Yes"}], "the text of question 1 is missing"),
        ([{"question": "How many?", "answer": 3}], "the answer of question 1 is 3, but must be text"),
        ([["Is there a cat?", " "]], "the answer of question 1 is empty"),
        ('[["\\ud800", "Yes"]]', "the text of question 1 holds half a surrogate pair"),
    ],
)
def test_what_is_no_question_is_refused_in_one_sentence(tmp_path: Path, asked: Any, says: str) -> None:
    _jsonl(tmp_path / "p.jsonl", asked)
    with pytest.raises(UserError, match=rf"p\.jsonl: line 1: corpus\.questions: column 'asked': {says}") as caught:
        corpus(tmp_path / "p.jsonl", questions="asked")
    assert "\n" not in str(caught.value)
    assert "; write a list such as" in str(caught.value)


def test_the_documented_conversion_reads_dsg_and_tifa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files have the columns of those published at github.com/j-min/DSG and github.com/Yushi-Hu/tifa."""
    monkeypatch.chdir(tmp_path)
    dsg = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    dsg += "question_natural_language\n"
    dsg += "vrd_57,bench near trees,bench,1,0,entity,whole,entity - whole (bench),Is there a bench?\n"
    dsg += 'vrd_57,bench near trees,"bench, trees, near",3,"1,2",relation,spatial,"a, b",Is the bench near the trees?\n'
    dsg += "tifa_1,a sad man,man,1,0,entity,whole,entity - whole (man),Is there a man?\n"
    write(tmp_path / "dsg-1k-anns.csv", dsg)
    item = {"id": "drawbench_52", "caption": "Three cats on the grass.", "element_type": "counting", "element": "three"}
    tifa = [
        item | {"question": "are there cats?", "choices": ["yes", "no"], "answer": "yes"},
        item | {"question": "how many cats are there?", "choices": ["1", "2", "3", "4"], "answer": "3"},
    ]
    write(tmp_path / "tifa_v1.0_question_answers.json", json.dumps(tifa))
    page = (ROOT / "docs/corpora.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(snippet, {})
    bench, man = corpus("dsg.jsonl", questions="questions").rows()
    assert bench.questions == (Question("Is there a bench?", "Yes"), Question("Is the bench near the trees?", "Yes"))
    assert (man.prompt, man.questions) == ("a sad man", (Question("Is there a man?", "Yes"),))
    (cats,) = corpus("tifa.jsonl", questions="questions").rows()
    assert cats.questions == (
        Question("are there cats? Choose from: yes, no.", "yes"),
        Question("how many cats are there? Choose from: 1, 2, 3, 4.", "3"),
    )
