"""A model that answers new questions about a case, one at a time; loaded at the first question, kept for the next."""

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, Literal, final

import numpy as np
from PIL import Image
from pydantic import ConfigDict, TypeAdapter

from radvqa.errors import DataError, RadvqaError, RunError
from radvqa.explain.bundle import Manifest
from radvqa.explain.bundle_files import PIXELS
from radvqa.serve.case_bytes import Case
from radvqa.serve.series import Series
from radvqa.web.answers import png_bytes

LONGEST_QUESTION = 500
LONGEST_ANSWER = 500
CASES_KEPT = 20

State = Literal["off", "idle", "loading", "answering", "failed"]

Answering = Callable[[Case, str, str | None], tuple[Manifest, Mapping[str, np.ndarray]]]
"""A loaded model: from a case, a question and perhaps a typed answer to a new case."""

Opening = Callable[[Series], Answering]
"""Loads the model of a series. Raises ``RadvqaError`` if it cannot."""

_WORDS: Mapping[State, str] = {
    "off": "This server has no model to ask; start it with --live.",
    "idle": "The model is ready to be asked.",
    "loading": "The model is being loaded; the first question takes longer.",
    "answering": "The model is answering.",
    "failed": "The last question could not be answered.",
}
_NOT_LOADED = "The model is loaded at the first question."


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question as the page sends it."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    series: str
    key: str
    question: str
    answer: str | None = None


ASKED = TypeAdapter(Asked)


class BusyError(RunError):
    """The model is answering another question."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeptCase:
    """A case in memory. ``asked_of``: the case whose picture it is about."""

    manifest: Manifest
    arrays: Mapping[str, np.ndarray]
    picture: bytes
    asked_of: str

    def __contains__(self, name: str) -> bool:
        """Whether there is such an array."""
        return name in self.arrays

    def array(self, name: str) -> np.ndarray:
        """One array. Raises ``RunError`` if there is none."""
        if name not in self.arrays:
            raise RunError("the case has no such array", got=repr(name)[:80])
        return self.arrays[name]


@final
class Live:
    """Answers questions with the model of the series that was asked last; the last cases stay in memory.

    ``open_model`` is None where no live model was asked for.
    """

    def __init__(self, open_model: Opening | None) -> None:
        self._open = open_model
        self._lock = threading.Lock()
        self._model: tuple[str, Answering] | None = None
        self._cases: OrderedDict[tuple[str, str], KeptCase] = OrderedDict()
        self._state: State = "off" if open_model is None else "idle"

    @property
    def on(self) -> bool:
        """Whether there is a model to ask."""
        return self._open is not None

    def state(self) -> dict[str, Any]:
        """What goes on, with a sentence for it."""
        state = self._state
        words = _NOT_LOADED if state == "idle" and self._model is None else _WORDS[state]
        return {"live": self.on, "state": state, "words": words}

    def case(self, series: str, key: str) -> KeptCase | None:
        """A case that was asked before, if it is among the last ones."""
        return self._cases.get((series, key))

    def ask(self, series: Series, case: Case, question: str, answer: str | None) -> str:
        """Ask about a case's picture and return the key of the new case. Takes seconds, and minutes at first.

        Raises:
            DataError: the question or the answer is empty or too long.
            BusyError: another question is being answered.
            RadvqaError: there is no model, it cannot be loaded, or it cannot answer this.
        """
        if self._open is None:
            raise RunError(_WORDS["off"])
        question = _checked(question, "question", LONGEST_QUESTION)
        answer = None if answer is None else _checked(answer, "answer", LONGEST_ANSWER)
        if not self._lock.acquire(blocking=False):
            raise BusyError(_WORDS[self._state], fix="wait until it has answered")
        done = False
        try:
            manifest, arrays = self._model_of(series, self._open)(case, question, answer)
            done = True
        except RadvqaError:
            raise
        except Exception as error:
            # Whatever a model may do: the page lives on, the terminal tells all.
            logging.getLogger("uvicorn.error").exception("the live model failed")
            raise RunError(
                "the model failed at this question",
                got=type(error).__name__,
                fix="see the terminal of the server for what happened",
            ) from error
        finally:
            self._state = "idle" if done else "failed"
            self._lock.release()
        return self._keep(series, case, manifest, arrays)

    def _model_of(self, series: Series, open_model: Opening) -> Answering:
        if self._model is None or self._model[0] != series.id:
            self._state = "loading"
            self._model = None  # two models may not fit into memory
            self._model = (series.id, open_model(series))
        self._state = "answering"
        return self._model[1]

    def _keep(self, series: Series, case: Case, manifest: Manifest, arrays: Mapping[str, np.ndarray]) -> str:
        key = f"ask-{secrets.token_hex(6)}"
        picture = png_bytes(Image.fromarray(arrays[PIXELS])) if PIXELS in arrays else case.picture
        self._cases[series.id, key] = KeptCase(
            manifest=replace(manifest, key=key, files={}),
            arrays=arrays,
            picture=picture,
            asked_of=case.asked_of if isinstance(case, KeptCase) else case.manifest.key,
        )
        while len(self._cases) > CASES_KEPT:
            self._cases.popitem(last=False)
        return key


def pixels_of(case: Case) -> np.ndarray:
    """The picture of a case, uint8 ``y x`` or ``y x 3``."""
    with Image.open(BytesIO(case.picture)) as image:
        return np.asarray(image)


def _checked(text: str, name: str, longest: int) -> str:
    """The text on one line. Raises ``DataError`` if it is empty or too long."""
    plain = " ".join(text.split())
    if not plain:
        raise DataError(f"the {name} is empty", fix=f"type {'an' if name == 'answer' else 'a'} {name}")
    if len(plain) > longest:
        raise DataError(
            f"the {name} is too long", expected=f"at most {longest} characters", got=f"{len(plain)} characters"
        )
    return plain
