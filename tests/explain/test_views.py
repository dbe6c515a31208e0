"""Tokens as pieces of a text, grouped into words by their place."""

from types import SimpleNamespace

import pytest

from radvqa.explain.views import token_texts, word_numbers


class Bytes:
    """A tokenizer of single bytes, as byte-level ones are in the worst case."""

    @staticmethod
    def decode(ids):
        return bytes(ids).decode("utf-8", errors="replace")


def texts_of(prompt, answer):
    asked = SimpleNamespace(
        vlm=SimpleNamespace(tokenizer=Bytes()),
        pieces=("<bos>",),
        prompt_ids=tuple(prompt.encode()),
        answer_ids=tuple(answer.encode()),
    )
    return token_texts(asked)


@pytest.mark.parametrize("prompt", ["answer en Is it big?\n", "answer zh 图中有肺吗？\n", "é ö 🫁 x\n"])
@pytest.mark.parametrize("answer", ["Left Lung", "左肺", "肺 ok"])
def test_pieces_add_up_to_the_text(prompt, answer):
    texts = texts_of(prompt, answer)
    first = 1 + len(prompt.encode())
    assert "".join(texts[1:first]) == prompt
    assert "".join(texts[first:]) == answer
    assert "\ufffd" not in "".join(texts)


def grouped(texts, answer):
    numbers = word_numbers(texts, answer=answer)
    words = {}
    for number, text in zip(numbers, texts, strict=True):
        words[number] = words.get(number, "") + text
    assert list(words) == sorted(words)
    return list(words.values())


def test_words_are_told_by_their_place():
    texts = (
        "<bos>",
        "answer",
        " en",
        " Is",
        " the",
        " le",
        "ft",
        " l",
        "ung",
        " l",
        "ung",
        "?",
        "\n",
        "l",
        "ung",
        " no",
    )
    assert grouped(texts, 13) == [
        "<bos>", "answer", " en", " Is", " the", " left", " lung", " lung", "?", "\n", "lung", " no"
    ]  # fmt: skip


def test_single_letters_become_words():
    text = "Is it big?\n"
    assert grouped(("<bos>", *text, *"No yes"), 1 + len(text)) == [
        "<bos>",
        "Is",
        " it",
        " big",
        "?",
        "\n",
        "No",
        " yes",
    ]


def test_ideographs_are_words_and_bytes_of_one_belong_together():
    texts = texts_of("有肺？\n", "左 ok")
    assert grouped(texts, 1 + len("有肺？\n".encode())) == ["<bos>", "有", "肺", "？", "\n", "左", " ok"]


def test_an_answer_begins_a_word():
    assert grouped(("<bos>", "a", "b", "c"), 2) == ["<bos>", "a", "bc"]
    assert grouped(("<bos>", "a", "", "b"), 3) == ["<bos>", "a", "b"]
