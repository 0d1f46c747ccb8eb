"""A prompt's questions by rules: what is asked, and that nothing is asked that the prompt does not say."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisesmith.pipeline.config import QUESTION
from noisesmith.pipeline.embedded import grammar
from noisesmith.pipeline.records import Question
from noisesmith.pipeline.text.questions import or_whole, split, strange_words

# Prompt → its questions; those without an answer here are answered by Yes.
TABLE: dict[str, list[str | tuple[str, str]]] = {
    "a giraffe": ["Is there a giraffe?"],
    "an orange and a unicorn": ["Is there an orange?", "Is there a unicorn?"],
    "a green backpack and a pig": ["Is there a backpack?", "Is the backpack green?", "Is there a pig?"],
    "seven green croissants.": [
        "Are there any croissants?",
        ("How many croissants are there?", "seven"),
        "Are the croissants green?",
    ],
    "3 apples in a bowl": [
        "Are there any apples?",
        ("How many apples are there?", "3"),
        "Is there a bowl?",
        "Are the apples in the bowl?",
    ],
    "a monkey behind a penguin": ["Is there a monkey?", "Is there a penguin?", "Is the monkey behind the penguin?"],
    "A truck in front of a toy": ["Is there a truck?", "Is there a toy?", "Is the truck in front of the toy?"],
    "a ball to the left of a box": ["Is there a ball?", "Is there a box?", "Is the ball to the left of the box?"],
    "bench near trees": ["Is there bench?", "Are there any trees?", "Is the bench near the trees?"],
    "a man wearing a red hat": [
        "Is there a man?",
        "Is there a hat?",
        "Is the hat red?",
        "Is the man wearing a hat?",
    ],
    "a zebra with a hat": ["Is there a zebra?", "Is there a hat?", "Is there a zebra with a hat?"],
    "a dog is sitting on the grass": ["Is there a dog?", "Is the grass there?", "Is the dog sitting on the grass?"],
    "two dogs, a stop sign, and some water": [
        "Are there any dogs?",
        ("How many dogs are there?", "two"),
        "Is there a stop sign?",
        "Is there any water?",
    ],
    "a photo of a red fox and a blue fox": ["Is there a red fox?", "Is there a blue fox?"],
    "two red foxes and a blue fox": [
        "Are there any red foxes?",
        ("How many red foxes are there?", "two"),
        "Is there a blue fox?",
    ],
    "a knife and fork": ["Is there a knife?", "Is there fork?"],
    "bus, traffic light, 3 cars": [
        "Is there bus?",
        "Is there traffic light?",
        "Are there any cars?",
        ("How many cars are there?", "3"),
    ],
    "a red fox behind a blue fox": [
        "Is there a red fox?",
        "Is there a blue fox?",
        "Is the red fox behind the blue fox?",
    ],
}
UNSPLIT = [
    "a red and blue ball",
    "a black and white zebra",
    "a child draws a flower",
    "a dog swims in the sea",
    "two dogs swim in a lake",
    "a cake topped with cherries",
    "a painting of a fox",
    "a man in a park with a fox",
    "a fox and a fox",
    "a fox and three foxes",
    "two foxes and a red fox",
    "an orange and white cat",
    "a cat with orange and white fur",
    "an old and rusty car",
    "an old, rusty car",
    "the old and rusty cars",
    "two happy and fluffy dogs",
    "bus in street. person next to traffic light",
    "a fox, highly detailed, 8k",
    "eine Katze über einem Auto",
    "and",
    "a",
    ",",
    "…",
]
WORDS = """a an the two three 3 some red blue orange wooden fox dogs cat hat glasses stop sign car and with on above in
    front of next to left wearing running is are , . : painting grass ride"""
ASKING = "is are there any the a an how many with yes"


@pytest.mark.parametrize("prompt", TABLE)
def test_a_prompt_is_split_into_its_parts(prompt: str) -> None:
    expected = [Question(*item) if isinstance(item, tuple) else Question(item, "Yes") for item in TABLE[prompt]]
    assert list(split(prompt, QUESTION)) == expected


@pytest.mark.parametrize("prompt", UNSPLIT)
def test_what_is_not_understood_is_asked_as_a_whole(prompt: str) -> None:
    assert split(prompt, QUESTION) == ()
    assert or_whole((), prompt, QUESTION) == (Question(QUESTION.replace("{prompt}", prompt), "Yes"),)


@pytest.mark.parametrize(
    ("prompt", "statements"),
    [
        ("a cat", ["a cat"]),
        ("a cat and a red car", ["a cat", "a red car"]),
        ("a cat above a red car", ["a cat", "a red car", "a cat above a red car"]),
        ("a lion with a glasses", ["a lion", "a glasses", "a lion with a glasses"]),
    ],
)
def test_the_embedded_world_is_asked_by_the_scorers_own_question(prompt: str, statements: list[str]) -> None:
    questions = split(prompt, 'Does this figure show "{prompt}"?')
    assert [question.question for question in questions] == [f'Does this figure show "{text}"?' for text in statements]
    assert {question.answer for question in questions} == {"Yes"}


@pytest.mark.parametrize("name", grammar.GRAMMARS)
def test_every_statement_of_a_grammar_is_a_prompt_of_it(name: str) -> None:
    prompts = grammar.prompts(name, 3)
    for _ in range(200):
        prompt = next(prompts)
        assert all(grammar.parse(statement) is not None for statement in prompt.parts())


def test_listed_questions_come_first() -> None:
    listed = (Question("Is it a cat?", "No"),)
    assert or_whole(listed, "a giraffe", QUESTION) == listed


@given(st.lists(st.sampled_from(WORDS.split()), max_size=12))
@settings(max_examples=300)
def test_questions_use_the_words_of_the_prompt_alone(words: list[str]) -> None:
    prompt = " ".join(words)
    questions = split(prompt, "{prompt}")
    assert questions == split(prompt, "{prompt}")
    assert len(set(questions)) == len(questions)
    for question in questions:
        assert strange_words(question.question, prompt) == []
        asked = re.findall(r"[\w']+", f"{question.question} {question.answer}".lower())
        assert set(asked) <= set(ASKING.split()) | set(prompt.lower().split())


@given(st.text(max_size=60))
def test_any_text_is_taken(prompt: str) -> None:
    for question in split(prompt, QUESTION):
        assert question.question
        assert question.answer


@pytest.mark.parametrize(
    ("question", "strange"),
    [
        ("How many cats are in the image?", []),
        ("What color is the cat?", []),
        ("Is the cat's tail black?", ["tail", "black"]),
        ("Are there any berries?", []),
        ("Is the dog red?", ["dog"]),
    ],
)
def test_words_that_the_prompt_does_not_have_are_found(question: str, strange: list[str]) -> None:
    assert strange_words(question, "A red cat and a Berry") == strange
