"""Each line of the table of well-known prompt sets in ``docs/corpora.md`` reads a small file of the same layout."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from noisesmith.pipeline.config import RunConfig
from noisesmith.pipeline.prompts import Corpus, open_corpus
from tests.density import ROOT
from tests.prompts.corpora import prompts, write

PROMPTS = ["a cat and a red car", 'a sign that says "OPEN"']
VQA_LISTS = [
    [
        ["How many cars are in the image?", "one"],
        ["Is the car red?", "Yes"],
        ["Are there any cars in the image?", "Yes"],
    ],
    [["Are there any signs in the image?", "Yes"]],
]
NOW = datetime(2022, 8, 7, 22, 57, tzinfo=UTC)
LINES = dict(
    re.findall(
        r"^\| \[?([\w-]+(?: 2)?(?:, \w+)?).*`(corpus: \{.*\})` \|$", (ROOT / "docs/corpora.md").read_text(), re.M
    )
)


def _parti(path: Path) -> None:
    """A cell of the real file begins with a quote that CSV would not allow."""
    text = "Prompt\tCategory\tChallenge\tNote\n"
    text += f'{PROMPTS[0]}\tAnimals\tBasic\t\n{PROMPTS[1]}\tSigns\tWriting\t"O P E N" in paint\n'
    write(path, text)


def _drawbench(path: Path) -> None:
    write(path, f'Prompts,Category\n{PROMPTS[0]},Colors\n"a sign that says ""OPEN""",Text\n')


def _geneval(path: Path) -> None:
    simple = {"tag": "two_object", "include": [{"class": "cat", "count": 1}], "prompt": PROMPTS[0]}
    placed = [{"class": "sign", "count": 1}, {"class": "dog", "count": 1, "position": ["right of", 0]}]
    exclude = [{"class": "sign", "count": 2}]
    position = {"tag": "position", "include": placed, "exclude": exclude, "prompt": PROMPTS[1]}
    write(path, f"{json.dumps(simple)}\n{json.dumps(position)}\n")


def _geneval2(path: Path) -> None:
    """The count of a thing comes before its colour and its presence, and relations have the skill ``position``."""
    lines = [
        {"prompt": PROMPTS[0], "atom_count": 3, "vqa_list": VQA_LISTS[0], "skills": ["count", "attribute", "object"]},
        {"prompt": PROMPTS[1], "atom_count": 1, "vqa_list": VQA_LISTS[1], "skills": ["object"]},
    ]
    write(path, "".join(json.dumps(line) + "\n" for line in lines))


def _lines(path: Path) -> None:
    write(path, f"{PROMPTS[0]}\r\n{PROMPTS[1]}")


def _list(path: Path) -> None:
    write(path, json.dumps(PROMPTS))


def _annotations(path: Path) -> None:
    items = [{"prompt": prompt, "image_path": ["a.jpg", "b.jpg"], "rank": [1, 0]} for prompt in PROMPTS]
    write(path, json.dumps(items))


def _diffusiondb(path: Path) -> None:
    columns = {
        "image_name": ["a.png", "b.png"],
        "prompt": PROMPTS,
        "part_id": pa.array([1, 1], pa.uint16()),
        "seed": pa.array([2615452689, 7], pa.uint32()),
        "cfg": pa.array([7.0, 7.5], pa.float32()),
        "width": pa.array([512, 768], pa.uint16()),
        "height": pa.array([512, 512], pa.uint16()),
        "timestamp": pa.array([NOW, NOW], pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(columns), path)


def _pickapic(path: Path) -> None:
    columns = {
        "are_different": [True, False],
        "best_image_uid": ["x", "y"],
        "caption": PROMPTS,
        "created_at": pa.array([NOW.replace(tzinfo=None)] * 2, pa.timestamp("ns")),
        "jpg_0": [b"\xff\xd8", b"\xff\xd8"],
        "jpg_1": [b"\xff\xd8", b"\xff\xd8"],
        "label_0": [0.5, 1.0],
        "ranking_id": [1, 2],
        "__index_level_0__": [0, 1],
    }
    pq.write_table(pa.table(columns), path)


def _coco(path: Path) -> None:
    annotations = [{"image_id": 9 + n, "id": 100 + n, "caption": text} for n, text in enumerate(PROMPTS)]
    images = [{"license": 3, "file_name": "9.jpg", "id": 9}]
    licenses = [{"id": 1, "name": "Attribution"}]
    info = {"year": 2017, "description": "captions"}
    document = {"info": info, "licenses": licenses, "images": images, "annotations": annotations}
    write(path, json.dumps(document))


def _tifa(path: Path) -> None:
    items = [
        {"id": "coco_1", "caption": PROMPTS[0], "coco_val_id": "380711"},
        {"id": "drawbench_8", "caption": PROMPTS[1]},
    ]
    write(path, json.dumps(items, indent=4))


def _dpg(path: Path) -> None:
    path.mkdir(parents=True)
    for number, prompt in enumerate(PROMPTS):
        write(path / f"{number}.txt", prompt)


def _dsg(path: Path) -> None:
    text = "item_id,text,keywords,proposition_id,dependency,tuple,question_natural_language\n"
    text += f"a_1,{PROMPTS[0]},cat,1,0,entity - whole (cat),Is there a cat?\n"
    text += 'a_2,"a sign that says ""OPEN""","sign, open",2,1,"attribute - text (sign, open)",Is it open?\n'
    write(path, text)


def _gecko(path: Path) -> None:
    text = (
        f",dataset_id,prompt,prompt_type,prompt_id,max_disagreement_less_0.5\n0,ne/a:b,{PROMPTS[0]},Gecko(S),0,False\n"
    )
    write(path, f'{text}1,ne/a:c,"a sign that says ""OPEN""",Gecko(R),1,True\n')


def _laion(path: Path) -> None:
    columns = {
        "URL": ["http://a", "http://b"],
        "TEXT": PROMPTS,
        "WIDTH": [512, 768],
        "HEIGHT": [512, 512],
        "similarity": [0.3, 0.4],
        "hash": [-(2**60) - 1, 3],
        "punsafe": pa.array([0.1, None], pa.float32()),
        "aesthetic": [8.1, 8.2],
    }
    pq.write_table(pa.table(columns), path)


def _genai(path: Path) -> None:
    items = {f"0000{n}": {"id": f"0000{n}", "prompt": text, "models": {"a": 5}} for n, text in enumerate(PROMPTS)}
    write(path, json.dumps(items, indent=4))


# Prompt set → what writes a file of its layout, and columns that the rows must have.
SETS: dict[str, tuple[Callable[[Path], None], dict[str, list[object]]]] = {
    "PartiPrompts": (_parti, {"Category": ["Animals", "Signs"], "Note": [None, '"O P E N" in paint']}),
    "DrawBench": (_drawbench, {"Category": ["Colors", "Text"]}),
    "GenEval": (_geneval, {"tag": ["two_object", "position"]}),
    "GenEval 2": (_geneval2, {"vqa_list": list(VQA_LISTS), "atom_count": [3, 1]}),
    "T2I-CompBench": (_lines, {}),
    "HPDv2": (_list, {}),
    "HPDv2, annotations": (_annotations, {"rank": [[1, 0], [1, 0]]}),
    "DiffusionDB": (_diffusiondb, {"sd_seed": [2615452689, 7], "sd_width": [512, 768], "timestamp": [NOW, NOW]}),
    "Pick-a-Pic": (_pickapic, {"label_0": [0.5, 1.0], "__index_level_0__": [0, 1]}),
    "COCO": (_coco, {"image_id": [9, 10], "caption_id": [100, 101]}),
    "TIFA": (_tifa, {"tifa_id": ["coco_1", "drawbench_8"], "coco_val_id": ["380711", None]}),
    "DPG-Bench": (_dpg, {}),
    "DSG-1k": (_dsg, {"proposition_id": [1, 2], "keywords": ["cat", "sign, open"]}),
    "Gecko": (_gecko, {"prompt_id": [0, 1], "max_disagreement_less_0.5": [False, True]}),
    "LAION-Aesthetics": (_laion, {"hash": [-(2**60) - 1, 3], "source_width": [512, 768]}),
    "GenAI-Bench": (_genai, {"key": ["00000", "00001"], "genai_id": ["00000", "00001"]}),
}


def _opened(name: str, folder: Path) -> Corpus:
    config = yaml.safe_load(LINES[name])
    path = folder / config["corpus"]["source"]
    SETS[name][0](path)
    return open_corpus(RunConfig.model_validate(config))


@pytest.mark.parametrize("name", SETS)
def test_the_documented_line_reads_the_prompt_set(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened = _opened(name, tmp_path)
    assert prompts(opened) == PROMPTS
    rows = list(opened.rows())
    for column, values in SETS[name][1].items():
        assert [row.extra[column] for row in rows] == values


def test_questions_of_geneval_2_are_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = _opened("GenEval 2", tmp_path).rows()
    listed = [[[question.question, question.answer] for question in row.questions] for row in rows]
    assert listed == VQA_LISTS


def test_every_line_of_the_table_is_tested() -> None:
    assert LINES.keys() == SETS.keys()


def test_what_has_no_arrow_type_is_json_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened = _opened("GenEval", tmp_path)
    assert opened.as_json == ("include",)
    first, second = (json.loads(str(row.extra["include"])) for row in opened.rows())
    assert first == [{"class": "cat", "count": 1}]
    assert second[1] == {"class": "dog", "count": 1, "position": ["right of", 0]}
