"""Prompts for captions: versioned Markdown files that say what a model is asked, and the form its reply must have."""

import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from radvqa.errors import RecipeError
from radvqa.llm import Message
from radvqa.synth.pair import SLOTS, Slot, Source

Kind = Literal["slots", "dialogue"]

NOT_STATED = "not stated"
VALUE_LENGTHS: Mapping[Slot, int] = {
    "modality": 30,
    "plane": 30,
    "organ": 40,
    "finding": 60,
    "location": 60,
    "severity": 30,
}
"""Characters, for the slots that hold one value."""
QUESTION_LENGTH, ANSWER_LENGTH = 120, 60
"""Characters, for the slots that hold a question and its answer."""
SLACK = 1.5
"""How much longer the schema lets a text be. A model held to a schema is cut within a word where the text may not go
on; so a text that was cut is longer than its limit, and is told from one that is whole."""
MOST_QUESTIONS = 4
"""Of one kind from one caption; models begin to repeat themselves long before."""
SHORTEST_DIALOGUE, LONGEST_DIALOGUE = 2, 4

_FOLDER = resources.files("radvqa.synth").joinpath("prompts")
_NAME = re.compile(r"^[a-z][a-z0-9_-]*@[1-9][0-9]*$")
_PARTS = re.compile(
    r"\A---\n(?P<front>.*?)\n---\n\s*# System\n(?P<system>.*?)\n# Example\n(?P<example>.*?)\n# User\n(?P<user>.*)\Z",
    re.DOTALL,
)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_PLACEHOLDERS = ("caption", "facts", "fields")
_LANGUAGES = {"en": "English", "zh": "Chinese", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian"}
# What chat templates take for the begin or end of a turn: "<|im_end|>", "</s>", "<start_of_turn>", "[INST]".
_TURN_MARK = re.compile(r"<(?=[|/a-zA-Z_\uff5c])|\[(?=/?[A-Z_]+\])")


class Asked(NamedTuple):
    """One entry of the form: its key, the slot it fills, and its number among those of the same slot, from 1."""

    key: str
    slot: Slot
    number: int


_Part = TypeVar("_Part", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Front(_Strict):
    id: _Text
    version: Annotated[int, Field(ge=1)]
    kind: Kind
    slots: Annotated[list[Slot], Field(min_length=1)]
    purpose: _Text
    author: _Text
    date: _Text


class _Pair(_Strict):
    question: _Text
    answer: _Text


class _Example(_Strict):
    caption: _Text
    facts: dict[str, str]
    reply: dict[Slot, _Text | Annotated[list[_Pair], Field(min_length=1)]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """The worked example of a prompt. ``reply`` holds, by slot, a value or questions with their answers."""

    caption: str
    facts: Mapping[str, str]
    reply: Mapping[Slot, str | tuple[Mapping[str, str], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as its file states it. ``digest`` is the SHA-256 of the file, ``slots`` what it can ask for.

    ``kind``: ``slots`` asks for each on its own; ``dialogue`` for a chain of open questions, as long as their count.
    """

    id: str
    version: int
    kind: Kind
    digest: str
    slots: tuple[Slot, ...]
    purpose: str
    system: str
    example: Example
    user: str

    @property
    def name(self) -> str:
        """``id@version``, as origins and recipes name it."""
        return f"{self.id}@{self.version}"

    def asked(self, counts: Mapping[Slot, int]) -> tuple[Asked, ...]:
        """The entries of the form for ``counts`` by slot, in the order in which they are asked; a count of 0 asks none.

        Raises:
            RecipeError: nothing is asked for, a slot the prompt cannot ask for, or a count out of range.
        """
        for slot, count in counts.items():
            self._require_count(slot, count)
        asked = tuple(entry for slot in SLOTS if counts.get(slot, 0) for entry in self._entries(slot, counts[slot]))
        if not asked:
            raise RecipeError(
                "nothing is asked of the model",
                where="counts",
                expected=f"at least one of {', '.join(self.slots)}",
                got=repr(dict(counts)),
                fix="give one of them a count above 0",
            )
        return asked

    def messages(self, source: Source, counts: Mapping[Slot, int], language: str = "en") -> tuple[Message, ...]:
        """The chat that asks for ``counts``: instructions, the example cut to what is asked, and the caption.

        A caption is untrusted: it stands as a JSON string, which its text cannot close, and marks that chat templates
        read as the end of a turn are escaped in it. ``language`` is that of questions and answers.

        Raises:
            RecipeError: as ``asked``; or another language than English for slots whose question is worded in English.
        """
        asked = self.asked(counts)
        system = self.system + self._language_sentence(asked, language)
        return (
            Message(role="system", content=system),
            Message(role="user", content=self._ask(self.example.caption, self.example.facts, asked)),
            Message(role="assistant", content=json.dumps(self._example_reply(asked), ensure_ascii=False)),
            Message(role="user", content=self._ask(source.text, source.facts, asked)),
        )

    def schema(self, counts: Mapping[Slot, int]) -> dict[str, Any]:
        """The JSON schema of the reply: an object with the entries of ``asked``, all required, and no others.

        Raises:
            RecipeError: as ``asked``.
        """
        return _object({entry.key: _entry_schema(entry.slot) for entry in self.asked(counts)})

    def _entries(self, slot: Slot, count: int) -> list[Asked]:
        stem = "turn" if self.kind == "dialogue" else slot
        # Numbered keys, not a list: asked for a list, small models repeat one entry without end.
        numbered = count > 1 or self.kind == "dialogue"
        return [Asked(f"{stem}_{number}" if numbered else stem, slot, number) for number in range(1, count + 1)]

    def _require_count(self, slot: str, count: int) -> None:
        if slot not in self.slots:
            raise RecipeError(
                f"prompt {self.name} cannot ask for {slot!r}",
                where="counts",
                expected=", ".join(self.slots),
                got=repr(slot),
                fix="leave it out, or choose a prompt that can",
            )
        least, most = self._count_range(slot)
        if not isinstance(count, int) or isinstance(count, bool) or (count != 0 and not least <= count <= most):
            raise RecipeError(
                f"prompt {self.name} cannot ask for so many of {slot!r}",
                where=f"counts, {slot}",
                expected=f"0, or {least} to {most}" if least < most else f"0 or {most}",
                got=repr(count),
                fix="an image has one value of modality, plane, ...; ask for more yes, no or open questions instead",
            )

    def _count_range(self, slot: str) -> tuple[int, int]:
        if self.kind == "dialogue":
            return SHORTEST_DIALOGUE, LONGEST_DIALOGUE
        return 1, 1 if slot in VALUE_LENGTHS else MOST_QUESTIONS

    def _example_reply(self, asked: Sequence[Asked]) -> dict[str, Any]:
        return {entry.key: self._example_value(entry) for entry in asked}

    def _example_value(self, entry: Asked) -> str | dict[str, str]:
        value = self.example.reply[entry.slot]
        if isinstance(value, str):
            return value
        if entry.number <= len(value):
            return dict(value[entry.number - 1])
        return {"question": NOT_STATED, "answer": entry.slot if entry.slot in ("yes", "no") else NOT_STATED}

    def _ask(self, caption: str, facts: Mapping[str, str], asked: Sequence[Asked]) -> str:
        told = ", ".join(f"{_quoted(name)}: {_quoted(fact)}" for name, fact in sorted(facts.items()))
        filled = {
            "caption": _quoted(caption),
            "facts": f"{{{told}}}" if facts else "none",
            "fields": ", ".join(entry.key for entry in asked),
        }
        # In one pass, so that braces in a caption stay text.
        return _PLACEHOLDER.sub(lambda found: filled[found[1]], self.user)

    def _language_sentence(self, asked: Sequence[Asked], language: str) -> str:
        if language == "en":
            return ""
        worded = sorted({entry.slot for entry in asked} & set(VALUE_LENGTHS))
        if worded:
            raise RecipeError(
                "these slots can be asked for in English only",
                where=f"language {language}, slots {', '.join(worded)}",
                expected="en, or the slots yes, no and open",
                got=repr(language),
                fix="ask for yes, no and open alone, or synthesise in English",
            )
        return f"\nWrite questions and open answers in {_LANGUAGES.get(language, f'the language {language!r}')}."


def prompt_names() -> tuple[str, ...]:
    """The shipped prompts as ``id@version``, sorted."""
    return tuple(sorted(file.name.removesuffix(".md") for file in _FOLDER.iterdir() if file.name.endswith(".md")))


def load_prompt(name: str | Path) -> Prompt:
    """A shipped prompt by its name ("slots@1"), or the prompt in a Markdown file of your own.

    Raises:
        RecipeError: no such prompt or file, or the file lacks a part or holds something unknown.
    """
    text = str(name)
    if isinstance(name, Path) or text.endswith(".md") or "/" in text:
        return _read(Path(name))
    if text not in prompt_names():
        near = difflib.get_close_matches(text, prompt_names(), n=1, cutoff=0.5)
        raise RecipeError(
            f"no prompt named {text!r}" + (f" (did you mean {near[0]!r}?)" if near else ""),
            where="prompt",
            expected=f"one of {', '.join(prompt_names())}, or a path that ends in .md",
            got=repr(text),
            fix="name the version too, as in slots@1",
        )
    return _parsed(_FOLDER.joinpath(f"{text}.md").read_bytes(), text, where=text)


def _read(path: Path) -> Prompt:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(
            "prompt file cannot be read", where=str(path), got=error.strerror or str(error), fix="check the path"
        ) from error
    return _parsed(content, path.name.removesuffix(".md"), where=str(path))


def _parsed(content: bytes, stem: str, *, where: str) -> Prompt:
    try:
        parts = _PARTS.match(content.decode("utf-8").replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        raise _broken(where, "a file in UTF-8", str(error)) from error
    if parts is None:
        raise _broken(where, "front matter between --- lines, then # System, # Example, # User", "another layout")
    front = _checked(_Front, parts["front"], where=f"{where}, front matter")
    example = _checked(_Example, parts["example"], where=f"{where}, example")
    if stem != f"{front.id}@{front.version}" or not _NAME.match(stem):
        expected = f"{front.id}@{front.version}.md, of lower-case letters, digits, _ and -"
        raise _broken(where, f"the file name {expected}", f"{stem}.md")
    _require_user_template(parts["user"], where)
    _require_example(front, example, where)
    return Prompt(
        id=front.id,
        version=front.version,
        kind=front.kind,
        digest=hashlib.sha256(content).hexdigest(),
        slots=tuple(slot for slot in SLOTS if slot in front.slots),
        purpose=front.purpose,
        system=parts["system"].strip(),
        example=Example(caption=example.caption, facts=example.facts, reply=_plain(example)),
        user=parts["user"].strip(),
    )


def _checked(part: type[_Part], text: str, *, where: str) -> _Part:
    try:
        # All text, because YAML 1.1 would read the slots yes and no as true and false.
        return part.model_validate(yaml.load(text, Loader=yaml.BaseLoader))
    except yaml.YAMLError as error:
        raise _broken(where, "YAML", " ".join(str(error).split())[:200]) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise _broken(f"{where}, {place}", first["msg"], repr(first["input"])[:200]) from error


def _require_user_template(user: str, where: str) -> None:
    found = _PLACEHOLDER.findall(user)
    unknown = sorted(set(found) - set(_PLACEHOLDERS))
    if unknown or "caption" not in found:
        expected = "{caption}, and if wanted {facts} and {fields}"
        raise _broken(f"{where}, # User", expected, ", ".join(f"{{{name}}}" for name in found) or "none of them")


def _require_example(front: _Front, example: _Example, where: str) -> None:
    if front.kind == "dialogue" and front.slots != ["open"]:
        raise _broken(f"{where}, front matter, slots", "[open], as all of a dialogue is", str(front.slots))
    if set(example.reply) != set(front.slots):
        raise _broken(f"{where}, example, reply", ", ".join(front.slots), ", ".join(example.reply))
    for slot, value in example.reply.items():
        if isinstance(value, str) != (slot in VALUE_LENGTHS):
            expected = "a value" if slot in VALUE_LENGTHS else "a list of questions with their answers"
            raise _broken(f"{where}, example, reply, {slot}", expected, repr(value)[:200])


def _plain(example: _Example) -> dict[Slot, str | tuple[Mapping[str, str], ...]]:
    return {
        slot: value if isinstance(value, str) else tuple(pair.model_dump() for pair in value)
        for slot, value in example.reply.items()
    }


def _broken(where: str, expected: str, got: str) -> RecipeError:
    return RecipeError(
        "not a prompt file",
        where=where,
        expected=expected,
        got=got,
        fix="compare the file with a shipped prompt",
    )


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _entry_schema(slot: Slot) -> dict[str, Any]:
    if slot in VALUE_LENGTHS:
        return _string(VALUE_LENGTHS[slot])
    answer = {"const": slot} if slot in ("yes", "no") else _string(ANSWER_LENGTH)
    return _object({"question": _string(QUESTION_LENGTH), "answer": answer})


def _string(longest: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": int(SLACK * longest)}


def _quoted(text: str) -> str:
    """A JSON string in which no mark of a chat template and no invisible character is left as it was."""
    quoted = _TURN_MARK.sub(lambda mark: _escaped(mark[0]), json.dumps(text, ensure_ascii=False))
    return "".join(
        _escaped(character)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        else character
        for character in quoted
    )


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if ord(character) > 127 else f"\\u{ord(character):04x}"
