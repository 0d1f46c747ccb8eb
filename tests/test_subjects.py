"""What a prompt asks for, and which tokens name it."""

from __future__ import annotations

import itertools
import string
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer, PreTrainedTokenizer

from noisesmith.pipeline.embedded import grammar
from noisesmith.pipeline.errors import UserError
from noisesmith.pipeline.text.subjects import find_read_subjects, find_subjects, text_stop, token_indices
from tests import tiny


class SlowTokenizer(PreTrainedTokenizer):
    """Python code only: words are cut into pieces of two characters, with one start and one end token."""

    vocab_files_names: ClassVar[dict[str, str]] = {}

    def __init__(self, **options: Any) -> None:
        letters = string.ascii_lowercase
        self._pieces = ["<s>", "</s>", "?", *letters, *map("".join, itertools.product(letters, repeat=2))]
        super().__init__(bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="?", **options)

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    def get_vocab(self) -> dict[str, int]:
        return {piece: place for place, piece in enumerate(self._pieces)}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return [word[i : i + 2] for word in text.lower().split() for i in range(0, len(word), 2)]

    def _convert_token_to_id(self, token: str) -> int:
        return self.get_vocab().get(token, 2)

    def _convert_id_to_token(self, index: int) -> str:
        return self._pieces[index]

    def build_inputs_with_special_tokens(self, first: list[int], second: list[int] | None = None) -> list[int]:
        return [0, *first, 1]


def clip_tokenizer(max_length: int = 24) -> CLIPTokenizer:
    """The true class, whose only whole words are cat, dog, a and and."""
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("a", "n"), ("an", "d</w>")]
    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {piece: place for place, piece in enumerate([*pieces, *map("".join, merges)])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)


TOKENIZERS = {
    "word level": lambda: tiny.tokenizer(24, template=True),
    "CLIP": clip_tokenizer,
    "slow": lambda: SlowTokenizer(model_max_length=24),
}


@pytest.mark.parametrize(
    ("prompt", "subjects"),
    [
        ("a cat and a dog", ["cat", "dog"]),
        ("a red car above a purple bow", ["car", "bow"]),
        ("A cat with a glasses.", ["cat", "glasses"]),
        ("two red cars on a wooden table", ["cars", "table"]),
        ("an astronaut riding a horse", ["astronaut", "horse"]),
        ("a photo of a flying bird", ["bird"]),
        ("a man wearing a hat, and two dogs", ["man", "hat", "dogs"]),
        ("a group of knights in front of a tall building", ["knights", "building"]),
        ("a cat next to another cat", ["cat"]),
        ("A Cat and a DOG next to a cat", ["Cat", "DOG"]),
        ("an İguana on a STRASSE near a straße", ["İguana", "STRASSE"]),
        ("4k, 8k", []),
        ("", []),
    ],
)
def test_subjects_are_the_nouns_in_their_order(prompt: str, subjects: list[str]) -> None:
    assert find_subjects(prompt) == subjects


@pytest.mark.parametrize("kind", grammar.GRAMMARS)
def test_every_noun_of_the_embedded_world_is_found(kind: str) -> None:
    for prompt in itertools.islice(grammar.prompts(kind, 0), 200):
        assert find_subjects(str(prompt)) == list(dict.fromkeys(phrase.noun for phrase in prompt.phrases))


@given(st.text(st.sampled_from(f"{string.ascii_letters}  ,.'-0İıßΣς"), max_size=60))
def test_found_subjects_occur_in_their_prompt_as_words(prompt: str) -> None:
    tokens = clip_tokenizer(1000)
    assert len(token_indices(tokens, prompt, find_subjects(prompt))) == len(find_subjects(prompt))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_found_subjects_beyond_what_the_text_encoder_reads_are_left_out(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    filler = " ".join(["of"] * 20)
    assert find_read_subjects(tokenizer, f"a cat {filler} a dog {filler} a bowl") == ["cat"]
    assert find_read_subjects(tokenizer, f"{filler} {filler} a bowl") == []
    assert find_read_subjects(tokenizer, "a cat and a dog") == ["cat", "dog"]


@given(st.text(max_size=80))
def test_no_prompt_is_refused_for_the_subjects_found_in_it(prompt: str) -> None:
    assert set(find_read_subjects(clip_tokenizer(), prompt)) <= set(find_subjects(prompt))


def test_a_letter_whose_lower_case_is_longer_moves_no_subject() -> None:
    tokens = clip_tokenizer(100)
    prompt = "a İİİ cat and a straße dog"
    pieces = tokens.convert_ids_to_tokens(tokens(prompt).input_ids)
    for subject, piece in (("cat", "cat</w>"), ("dog", "dog</w>")):
        assert token_indices(tokens, prompt, [subject]) == [[pieces.index(piece)]]
    assert token_indices(tokens, prompt, ["STRASSE"]) == token_indices(tokens, prompt, ["straße"])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_indices_name_the_subjects_tokens(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    prompt = "a  cat and a Red car on a bowl"
    places = token_indices(tokenizer, prompt, ["cat", "red car", "bowl"])
    ids = tokenizer(prompt, padding="max_length", max_length=24, truncation=True).input_ids
    for subject, found in zip(["cat", "red car", "bowl"], places, strict=True):
        expected = tokenizer(
            subject if name != "word level" else subject.replace("red", "Red"), add_special_tokens=False
        )
        assert [ids[place] for place in found] == expected.input_ids


@pytest.mark.parametrize("name", ["word level", "CLIP"])
def test_indices_agree_with_a_fast_tokenizers_offsets(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    prompt = "a dog's bowl, under a cat"
    offsets = tokenizer(prompt, return_offsets_mapping=True).offset_mapping
    for subject in ("dog", "bowl", "cat"):
        start = prompt.index(subject)
        inside = [place for place, (a, b) in enumerate(offsets) if a < b and start <= a and b <= start + len(subject)]
        assert token_indices(tokenizer, prompt, [subject]) == [inside]


def test_word_pieces_make_one_subject() -> None:
    assert token_indices(clip_tokenizer(), "a zebra and a dog", ["zebra", "dog"]) == [[2, 3, 4, 5, 6], [9]]


def test_a_subject_listed_twice_means_two_of_them() -> None:
    assert token_indices(clip_tokenizer(), "a cat and a cat", ["cat", "Cat"]) == [[2], [5]]
    with pytest.raises(UserError, match="'cat' does not occur again"):
        token_indices(clip_tokenizer(), "a cat and a dog", ["cat", "cat"])


@pytest.mark.parametrize("subject", ["cow", "ca", "cats", "cat dog", " "])
def test_a_subject_that_the_prompt_does_not_name_is_refused(subject: str) -> None:
    with pytest.raises(UserError, match=r"^corpus\.subjects: .* does not occur in the prompt 'a cat and a dog'; list"):
        token_indices(clip_tokenizer(), "a cat and a dog", [subject])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_subject_that_the_text_encoder_never_reads_is_refused(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    words = ["a"] * 20
    fits, cut = " ".join([*words, "a", "b"]), " ".join([*words, "a", "a", "b"])
    assert token_indices(tokenizer, fits, ["b"]) == [[22]]
    with pytest.raises(UserError, match=r"^corpus\.subjects: 'b' lies beyond the 24 tokens"):
        token_indices(tokenizer, cut, ["b"])


def test_the_text_stops_at_its_end_or_before_the_last_position() -> None:
    assert text_stop(clip_tokenizer(), "a cat") == 23  # padded with the end token, as Stable Diffusion 1.x
    padded = TOKENIZERS["word level"]()
    assert text_stop(padded, "a cat") == 3
    assert text_stop(padded, "a " * 100) == 23
