"""The prompt of a judge: a versioned Markdown file, the chat made from it, and the one form of reply that counts."""

import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from radvqa.errors import RecipeError
from radvqa.llm import Message

Order = Literal["reference_first", "candidate_first"]
Verdict = Literal["correct", "incorrect"]

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["correct", "incorrect"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}

_FOLDER = resources.files("radvqa.evaluate").joinpath("prompts")
_PARTS = re.compile(
    r"\A---\nid: (?P<id>[a-z][a-z0-9_-]*)\nversion: (?P<version>[1-9][0-9]*)\n.*?\n?---\n\s*# System\n(?P<system>.*?)\n"
    r"# Reference\n(?P<reference>.*?)\n# Candidate\n(?P<candidate>.*?)\n# User\n(?P<user>.*)\Z",
    re.DOTALL,
)
_PURPOSE = re.compile(r"^purpose: (.+)$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{(text|question|answers)\}")
# What chat templates take for the begin or end of a turn: "<|im_end|>", "</s>", "<start_of_turn>", "[INST]".
_TURN_MARK = re.compile(r"<(?=[|/a-zA-Z_\uff5c])|\[(?=/?[A-Z_]+\])")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgePrompt:
    """A prompt as its file states it. ``name`` is ``id@version``, ``digest`` the SHA-256 of the file."""

    name: str
    purpose: str
    digest: str
    system: str
    reference: str
    candidate: str
    user: str

    def messages(
        self, question: str, references: Sequence[str], answer: str, *, order: Order
    ) -> tuple[Message, Message]:
        """The chat that asks for a verdict on ``answer``.

        All three texts are untrusted: each stands as a JSON string, which it cannot close, and marks that chat
        templates read as the end of a turn are escaped in it. Several references are joined by "or".
        """
        told = " or ".join(map(_quoted, references))
        lines = [_filled(self.reference, text=told), _filled(self.candidate, text=_quoted(answer))]
        if order == "candidate_first":
            lines.reverse()
        user = _filled(self.user, question=_quoted(question), answers="\n".join(lines))
        return Message(role="system", content=self.system), Message(role="user", content=user)


def verdict_of(text: str) -> Verdict | None:
    """The verdict of a reply that is the JSON object asked for and nothing else; None for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and list(value) == ["verdict"]:
        return next((word for word in ("correct", "incorrect") if value["verdict"] == word), None)
    return None


def load_judge_prompt(name: str | Path = "judge@1") -> JudgePrompt:
    """A shipped prompt by its name, or the prompt in a Markdown file of your own.

    Raises:
        RecipeError: no such prompt or file, or it lacks a part or a placeholder.
    """
    text = str(name)
    if isinstance(name, Path) or text.endswith(".md") or "/" in text:
        try:
            return _parsed(Path(name).read_bytes(), where=text)
        except OSError as error:
            raise RecipeError(
                "the prompt file cannot be read", where=text, got=error.strerror or str(error), fix="check the path"
            ) from error
    names = judge_prompt_names()
    if text not in names:
        near = difflib.get_close_matches(text, names, n=1, cutoff=0.5)
        raise RecipeError(
            f"no prompt of a judge is named {text!r}" + (f" (did you mean {near[0]!r}?)" if near else ""),
            where="--prompt",
            expected=f"one of {', '.join(names)}, or a path that ends in .md",
            got=repr(text),
        )
    return _parsed(_FOLDER.joinpath(f"{text}.md").read_bytes(), where=text)


def judge_prompt_names() -> tuple[str, ...]:
    """The shipped prompts as ``id@version``, sorted."""
    return tuple(sorted(file.name.removesuffix(".md") for file in _FOLDER.iterdir() if file.name.endswith(".md")))


def _parsed(content: bytes, *, where: str) -> JudgePrompt:
    text = content.decode("utf-8", errors="replace").replace("\r\n", "\n")
    parts = _PARTS.match(text)
    if parts is None:
        raise RecipeError(
            "this is no prompt of a judge",
            where=where,
            expected="front matter with id and version between --- lines, then # System, # Reference, # Candidate and "
            "# User",
            got="another layout",
            fix="start from the prompt that ships with radvqa, see docs/judge.md",
        )
    for part, wanted in (("reference", {"text"}), ("candidate", {"text"}), ("user", {"question", "answers"})):
        found = _PLACEHOLDER.findall(parts[part])
        if set(found) != wanted:
            raise RecipeError(
                "a prompt of a judge has the wrong placeholders",
                where=f"{where}, # {part.capitalize()}",
                expected=" and ".join(f"{{{one}}}" for one in sorted(wanted)),
                got=", ".join(f"{{{one}}}" for one in found) or "none",
            )
    purpose = _PURPOSE.search(text, 0, parts.start("system"))
    return JudgePrompt(
        name=f"{parts['id']}@{parts['version']}",
        purpose="" if purpose is None else purpose[1].strip(),
        digest=hashlib.sha256(content).hexdigest(),
        system=parts["system"].strip(),
        reference=parts["reference"].strip(),
        candidate=parts["candidate"].strip(),
        user=parts["user"].strip(),
    )


def _filled(template: str, **values: str) -> str:
    # In one pass, so that braces in an answer stay text.
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def _quoted(text: str) -> str:
    """A JSON string in which no mark of a chat template and no invisible character is left as it was."""
    quoted = _TURN_MARK.sub(lambda mark: _escaped(mark[0]), json.dumps(text, ensure_ascii=False))
    return "".join(
        _escaped(char) if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") else char
        for char in quoted
    )


def _escaped(char: str) -> str:
    return json.dumps(char)[1:-1] if ord(char) > 127 else f"\\u{ord(char):04x}"
