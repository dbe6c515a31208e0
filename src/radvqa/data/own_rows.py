"""One row of own data by roles instead of columns."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from radvqa.data.tables import Row, RowError, shown
from radvqa.sample import AnswerType

ANSWER_TYPES: Mapping[str, AnswerType] = {"closed": "closed", "open": "open"}
GROUP_ROLES = ("group", "patient", "case")
"""Roles of the columns that tell whose image it is, from the largest unit to the smallest."""

_WHOLE_ROLES = ("id", "image_id", *GROUP_ROLES)
_INTEGRAL = re.compile(r"^(-?\d+)\.0+$")


class RowReader:
    """One row by roles instead of columns; remembers what it had to mend."""

    def __init__(self, row: Row, roles: Mapping[str, str]) -> None:
        self._row, self._roles = row, roles
        self._mended: list[tuple[str, str]] = []

    def raw(self, role: str) -> Any:
        """The value as the table has it."""
        return self._row.values.get(self._roles[role])

    def text(self, role: str) -> str:
        """The stripped text of a role; ``""`` where it is absent, null or blank. Numbers become text."""
        if role not in self._roles:
            return ""
        return self._as_text(self.raw(role), role)

    def text_or_none(self, role: str) -> str:
        """``text``, or ``""`` where that is not usable."""
        try:
            return self.text(role)
        except RowError:
            return ""

    def keys(self) -> list[str]:
        """What the columns of groups say, from the largest unit to the smallest, such as ``patient:7``.

        A number means the same whether a table stores it as 7 or, beside empty cells, as 7.0.
        """
        texts = ((role, _INTEGRAL.sub(r"\1", self.text(role))) for role in GROUP_ROLES)
        return [f"{role}:{text}" for role, text in texts if text]

    def image(self) -> bytes | str:
        """The picture itself, or the name of its file. Raises ``RowError`` where there is neither."""
        value = self.raw("image")
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return value
        if not isinstance(value, str) or not value.strip():
            raise RowError("no_picture", f"the image should be a path or the bytes of a picture, got {shown(value)}")
        return value.strip()

    def answers(self) -> tuple[str, ...]:
        """The accepted answers, white space collapsed, each once."""
        found = []
        for role in ("answer", "answers"):
            if role in self._roles:
                for text in self._several(role, separator="|" if role == "answers" else None):
                    collapsed = " ".join(text.split())
                    if collapsed != text:
                        self._mended.append(
                            ("white_space_in_answer", f"white space inside the answer {text!r:.160} was collapsed")
                        )
                    found.append(collapsed)
        return tuple(dict.fromkeys(filter(None, found)))

    def choices(self) -> tuple[str, ...]:
        """The offered answers, white space collapsed."""
        if "choices" not in self._roles:
            return ()
        return tuple(filter(None, (" ".join(text.split()) for text in self._several("choices", separator="|"))))

    def mended(self, stated_type: str, answers: tuple[str, ...], choices: tuple[str, ...]) -> list[tuple[str, str]]:
        """Reason and sentence of everything that is not as it should be but was used."""
        found = list(dict.fromkeys(self._mended))
        if stated_type and stated_type.lower() not in ANSWER_TYPES:
            found.append(("unknown_answer_type", f"the answer type {shown(stated_type)} is neither closed nor open"))
        if choices and answers and answers[0] not in choices:
            found.append(("answer_not_a_choice", f"the answer {shown(answers[0])} is none of the choices"))
        return found

    def _several(self, role: str, *, separator: str | None) -> list[str]:
        value = self.raw(role)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                listed = json.loads(value)
            except (ValueError, RecursionError):
                listed = None
            value = listed if isinstance(listed, list) else value
        if isinstance(value, list | tuple):
            return [self._as_text(one, role) for one in value]
        text = self._as_text(value, role)
        return [part.strip() for part in text.split(separator)] if separator else [text]

    def _as_text(self, value: Any, role: str) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            if role in ("answer", "answers", "question"):
                self._mended.append((f"number_as_{role.rstrip('s')}", f"the {role} {value!r} was a number"))
            if role in _WHOLE_ROLES and isinstance(value, float) and value.is_integer():
                return str(int(value))
            return str(value)
        return Row(self._row.where, self._row.name, {role: value}).text(role, may_be_empty=True).strip()
