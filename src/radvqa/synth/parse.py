"""What a model's reply holds: candidates, and a reject for everything asked for that it does not.

Reading is strict. Talk around the form is forgiven, because chat models add it whatever they are told; a form that is
broken is not mended, because a guess at what was meant would be a pair that nobody wrote.
"""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from radvqa.errors import RecipeError
from radvqa.synth.pair import Candidate, Slot, Source
from radvqa.synth.prompt import ANSWER_LENGTH, NOT_STATED, QUESTION_LENGTH, VALUE_LENGTHS, Asked, Example, Prompt
from radvqa.synth.wording import STYLES, names_degree, question_for

Reason = Literal[
    "no_json",
    "cut_off",
    "too_long",
    "malformed_json",
    "not_an_object",
    "no_known_key",
    "several_objects",
    "missing_key",
    "extra_key",
    "duplicate_key",
    "wrong_type",
    "not_stated",
    "control_characters",
    "model_talk",
    "not_a_question",
    "several_questions",
    "not_yes_no",
    "yes_no_in_open",
    "wrong_answer",
    "copied_example",
    "repeated",
    "contradiction",
    "negated_question",
    "not_a_degree",
    "no_finding",
    "not_alone",
    "chain_broken",
]

LONGEST_REPLY = 20_000
"""Characters; a longer reply is endless output, not a form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseReject:
    """Something that is no candidate, and why.

    ``slot`` is ``""`` where the whole reply was refused, which then counts for everything asked for; ``key`` is the
    entry of the form, as written. ``reason`` is a short machine name, ``detail`` a sentence. ``not_stated`` is no fault
    of the model: it was told to say so. ``extra_key`` stands for nothing that was asked; all others do.
    """

    slot: str
    reason: Reason
    detail: str
    key: str = ""


class _RefusalError(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason, self.detail = reason, detail
        super().__init__(detail)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written: in order, and with keys that occur twice."""


_DECODER = json.JSONDecoder(object_pairs_hook=_Pairs)
_THOUGHT = re.compile(r"\A\s*<(think|thinking|thought|reasoning)>.*?</\1>|\A[^{]*</think(?:ing)?>", re.DOTALL)
_OPEN_THOUGHT = re.compile(r"\A\s*<(?:think|thinking|thought|reasoning)>")
_BEGIN = re.compile(r"\{\s*\"|\[\s*\{")
_UNSTATED = frozenset(
    (
        "",
        "not stated",
        "not mentioned",
        "not specified",
        "not given",
        "not provided",
        "not available",
        "not applicable",
        "unspecified",
        "unstated",
        "none",
        "none stated",
        "n/a",
        "na",
        "nil",
        "null",
        "unknown",
        "no information",
    )
)
_TALK = re.compile(
    r"<\||\|>|</?(?:s|system|user|assistant|start_of_turn|end_of_turn|think)>|\[/?INST\]|```|https?://|"
    r"\b(?:ignore|disregard|forget)\b.{0,20}\b(?:previous|above|prior|instructions?)\b|\bsystem prompt\b|"
    r"\bas an? (?:ai|language model)\b|\blanguage model\b|\binstructions?\b|\bi (?:cannot|can't|am unable)\b|\bjson\b",
    re.IGNORECASE,
)
_YES_NO = re.compile(
    r"(?:(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would)(?:n't)?\b|"
    r"(?:state|say|tell|indicate|determine|specify|decide|check)\b.*\b(?:whether|if)\b)",
    re.IGNORECASE,
)
_ORDER = re.compile(
    r"(?:name|state|describe|identify|give|list|say|specify|tell|indicate|determine|locate|grade|classify|point|mention|"
    r"decide|check)\b",
    re.IGNORECASE,
)
_SECOND_QUESTION = re.compile(
    r"(?i:\b(?:and|or),?\s+(?:what|where|which|how|why|when|who|is|are|does|do|was|were)\b)|[.!;]\s+[A-Z][a-z]+"
)
_REFERS_BACK = re.compile(
    r"\b(?:it|its|they|them|their|those|these|that|this (?:finding|lesion|mass|abnormality|one))\b", re.IGNORECASE
)
_NEGATED = re.compile(r"\b(?:not|no|without|never|absent|absence)\b|n't\b", re.IGNORECASE)
_PLACE = re.compile(r"\s+(?:in|within|at|on|involving|along|near|around|adjacent to)\s.*")
_NOTHING_FOUND = re.compile(r"\b(?:no|normal|unremarkable|without|negative|absent|intact)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_FUNCTION_WORDS = frozenset(
    _WORD.findall(
        "a an the is are was were be been do does did has have had can could there this that it its in on at of to "
        "from with for by and or not no yes what which where how who image picture scan study seen shown show shows "
        "visible present see side view part any some body more than as into abnormal abnormality finding evidence "
        "stated"
    )
)


def parse_reply(
    text: str,
    *,
    prompt: Prompt,
    counts: Mapping[Slot, int],
    source: Source,
    styles: Sequence[str],
    seed: int,
    finished: bool = True,
) -> tuple[tuple[Candidate, ...], tuple[ParseReject, ...]]:
    """The candidates of a reply, and a reject for every other entry asked for; the same for the same arguments.

    A value becomes a question through ``wording``, in one of ``styles``, drawn from ``seed``, caption and entry.
    ``finished`` is False where the reply was cut at its limit: nothing of a form that was cut is kept.

    Raises:
        RecipeError: the settings ask for something impossible. What a model writes never raises.
    """
    asked = prompt.asked(counts)
    _require_styles(styles)
    try:
        form, extras = _entries_of(_form(text, {entry.key for entry in asked}, finished), asked)
    except _RefusalError as refusal:
        return (), (ParseReject(slot="", reason=refusal.reason, detail=refusal.detail),)
    reading = _Reading(prompt, source, tuple(styles), seed)
    candidates, rejects = reading.chain(asked, form) if prompt.kind == "dialogue" else reading.slots(asked, form)
    return tuple(candidates), tuple(rejects + extras)


class _Reading:
    """One reply being read; knows what was found in it so far."""

    def __init__(self, prompt: Prompt, source: Source, styles: tuple[str, ...], seed: int) -> None:
        self.source, self.styles, self.seed = source, styles, seed
        self.example_words = _words(*_example_texts(prompt.example))
        self.source_words = _words(source.text, *source.facts.values())
        self.questions: set[str] = set()
        self.contradicted: frozenset[str] = frozenset()
        self.finding: str | None = None
        self.finding_asked = False

    def slots(self, asked: Sequence[Asked], form: Mapping[str, Any]) -> tuple[list[Candidate], list[ParseReject]]:
        candidates, rejects = [], []
        self.contradicted = _asked_under("yes", asked, form) & _asked_under("no", asked, form)
        for entry in asked:
            self.finding_asked |= entry.slot == "finding"
            try:
                candidates.append(self._candidate(entry, _value_under(form, entry.key)))
            except _RefusalError as refusal:
                rejects.append(_rejected(entry, refusal))
        return candidates, rejects

    def chain(self, asked: Sequence[Asked], form: Mapping[str, Any]) -> tuple[list[Candidate], list[ParseReject]]:
        """The turns up to the first that is refused: whatever comes after may refer to it."""
        candidates: list[Candidate] = []
        for place, entry in enumerate(asked):
            try:
                turn = self._asked_and_answered(entry, _value_under(form, entry.key))
                if entry.number == 1 and _REFERS_BACK.search(turn.question):
                    raise _RefusalError(
                        "not_alone", f"the first question refers to something before it: {turn.question!r}"
                    )
            except _RefusalError as refusal:
                broken = _RefusalError("chain_broken", f"{entry.key} before it was refused ({refusal.reason})")
                rejects = [_rejected(entry, refusal)] + [_rejected(later, broken) for later in asked[place + 1 :]]
                # One turn is no chain: it stands alone.
                whole = len(candidates) > 1
                return candidates if whole else [replace(one, dialogue=0, turn=0) for one in candidates], rejects
            candidates.append(replace(turn, dialogue=1, turn=entry.number))
        return candidates, []

    def _candidate(self, entry: Asked, value: Any) -> Candidate:
        if entry.slot not in VALUE_LENGTHS:
            return self._asked_and_answered(entry, value)
        answer = _clean(value, entry.key, VALUE_LENGTHS[entry.slot])
        self._refuse_copy(answer, entry.key)
        subject = self._subject() if entry.slot in ("location", "severity") else ""
        if entry.slot == "severity" and not names_degree(answer):
            raise _RefusalError("not_a_degree", f"severity holds no word of degree: {answer!r}")
        if entry.slot == "finding" and not _NOTHING_FOUND.search(answer):
            self.finding = _PLACE.sub("", answer)
        seed = self._seed(entry)
        style = self.styles[seed % len(self.styles)]
        question = question_for(entry.slot, style=style, subject=subject, seed=seed)
        return Candidate(question=question, answer=answer, slot=entry.slot, style=style, subject=subject)

    def _subject(self) -> str:
        """The finding that location and severity are asked of; ``""`` where none was asked for."""
        if self.finding_asked and self.finding is None:
            raise _RefusalError("no_finding", "the reply holds no finding that has a location or severity")
        return self.finding or ""

    def _asked_and_answered(self, entry: Asked, value: Any) -> Candidate:
        if not isinstance(value, dict):
            raise _RefusalError("wrong_type", f"{entry.key} should be a question and its answer, got {_shown(value)}")
        question = _clean(_value_under(value, "question"), f"{entry.key}.question", QUESTION_LENGTH)
        answer = _clean(_value_under(value, "answer"), f"{entry.key}.answer", ANSWER_LENGTH)
        _require_question(question, entry.slot)
        answer = _required_answer(answer, entry.slot)
        self._refuse_copy(question, f"{entry.key}.question")
        if entry.slot not in ("yes", "no"):
            self._refuse_copy(answer, f"{entry.key}.answer")
        same = _same(question)
        if entry.slot in ("yes", "no") and same in self.contradicted:
            raise _RefusalError("contradiction", f"the reply answers this by yes and by no: {question!r}")
        if same in self.questions:
            raise _RefusalError("repeated", f"the reply asks this twice: {question!r}")
        self.questions.add(same)
        return Candidate(question=question, answer=answer, slot=entry.slot)

    def _refuse_copy(self, text: str, key: str) -> None:
        """Weak models repeat the example: refuse what consists mostly of its words and not of the caption's."""
        words = _words(text)
        copied = (words & self.example_words) - self.source_words
        if copied and 2 * len(copied) > len(words):
            listed = ", ".join(sorted(copied))
            raise _RefusalError("copied_example", f"{key} is {text!r}; {listed} is in the example, not in the caption")

    def _seed(self, entry: Asked) -> int:
        named = f"{self.seed}|{self.source.caption_id}|{entry.key}"
        return int.from_bytes(hashlib.sha256(named.encode("utf-8", "surrogatepass")).digest()[:6])


def _form(text: str, keys: set[str], finished: bool) -> _Pairs:
    """The one object of the reply that has a key asked for."""
    if len(text) > LONGEST_REPLY:
        raise _RefusalError("too_long", f"the reply has {len(text):,} characters, more than {LONGEST_REPLY:,}")
    body = _THOUGHT.sub("", text, count=1)
    if _OPEN_THOUGHT.match(body):
        raise _RefusalError("cut_off", "the reply ends within the model's thoughts")
    values = list(_values(body))
    if not finished and not values:
        raise _RefusalError("cut_off", f"the reply ends at its limit before a form: {body[-80:]!r}")
    if not values:
        raise _RefusalError("no_json", f"the reply holds no JSON object: {body.strip()[:80]!r}")
    objects = [value for value in values if isinstance(value, _Pairs)]
    if len(objects) < len(values):
        raise _RefusalError("not_an_object", "the reply holds a list where an object was asked for")
    forms = [one for one in objects if any(key in keys for key, _ in one)]
    if not forms:
        seen = ", ".join(key for key, _ in objects[0])
        raise _RefusalError("no_known_key", f"the reply has none of the keys asked for, only {seen[:120] or 'nothing'}")
    if len(forms) > 1:
        raise _RefusalError("several_objects", f"the reply holds {len(forms)} forms, and nothing says which one counts")
    return forms[0]


def _values(text: str) -> Iterator[Any]:
    """The JSON objects of a text and its lists of objects, with anything between them; not those within others."""
    place = 0
    while begins := _BEGIN.search(text, place):
        try:
            value, place = _DECODER.raw_decode(text, begins.start())
        except (ValueError, RecursionError) as error:
            raise _broken_json(text, begins.start(), error) from error
        yield value


def _broken_json(text: str, start: int, error: ValueError | RecursionError) -> _RefusalError:
    if isinstance(error, json.JSONDecodeError):
        ends_early = error.pos >= len(text.rstrip().removesuffix("```").rstrip()) or error.msg.startswith(
            "Unterminated"
        )
        if ends_early:
            return _RefusalError("cut_off", f"the form ends early, and nothing of it is kept: {text[-80:]!r}")
        return _RefusalError("malformed_json", f"{error.msg} at {text[error.pos : error.pos + 40]!r}")
    return _RefusalError("malformed_json", f"{type(error).__name__} in {text[start : start + 80]!r}")


def _entries_of(form: _Pairs, asked: Sequence[Asked]) -> tuple[dict[str, Any], list[ParseReject]]:
    """The form by key, with objects within it as dictionaries, and a reject for every key that was not asked for."""
    known = {entry.key: entry for entry in asked}
    extras = [_extra(key) for key in dict.fromkeys(key for key, _ in form if key not in known)]
    entries: dict[str, Any] = {}
    for key, value in _merged(form).items():
        entry = known.get(key)
        if entry is None:
            continue
        if isinstance(value, _Pairs):
            entries[key] = within = _merged(value)
            inner = () if entry.slot in VALUE_LENGTHS else within.keys() - {"question", "answer"}
            extras += [_extra(f"{key}.{name}") for name in sorted(inner)]
        else:
            entries[key] = value
    return entries, extras


def _merged(pairs: _Pairs) -> dict[str, Any]:
    """By key; where one occurs twice, its value is a refusal, because nothing says which one counts."""
    times = Counter(key for key, _ in pairs)
    return {
        key: value if times[key] == 1 else _RefusalError("duplicate_key", f"{key!r} occurs {times[key]} times")
        for key, value in pairs
    }


def _value_under(values: Mapping[str, Any], key: str) -> Any:
    if key not in values:
        raise _RefusalError("missing_key", f"there is no {key!r}")
    if isinstance(values[key], _RefusalError):
        raise values[key]
    return values[key]


def _clean(value: Any, key: str, longest: int) -> str:
    """The text with single blanks, if it states something."""
    if value is None:
        raise _RefusalError("not_stated", f"{key} is null")
    if not isinstance(value, str):
        raise _RefusalError("wrong_type", f"{key} should be text, got {_shown(value)}")
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn") for character in value):
        raise _RefusalError("control_characters", f"{key} holds characters that are not text: {value[:80]!r}")
    text = " ".join(value.split())
    if text.casefold().strip(" .?!-") in _UNSTATED or NOT_STATED in text.casefold() or not _WORD.search(text):
        raise _RefusalError("not_stated", f"{key} is {text[:80]!r}")
    if len(text) > longest:
        raise _RefusalError("too_long", f"{key} has {len(text)} characters, more than {longest}: {text[:80]!r}")
    if _TALK.search(text):
        raise _RefusalError("model_talk", f"{key} holds talk to or of a model: {text!r}")
    return text


def _require_question(question: str, slot: Slot) -> None:
    if not question.endswith("?") and not _ORDER.match(question):
        raise _RefusalError("not_a_question", f"neither a question mark nor an order: {question!r}")
    if "?" in question[:-1] or _SECOND_QUESTION.search(question):
        raise _RefusalError("several_questions", f"this asks more than one thing: {question!r}")
    if slot not in ("yes", "no"):
        return
    if not _YES_NO.match(question):
        raise _RefusalError("not_yes_no", f"this is not answered by yes or no: {question!r}")
    if _NEGATED.search(question):
        raise _RefusalError("negated_question", f"yes and no are ambiguous after a negation: {question!r}")


def _asked_under(slot: Slot, asked: Sequence[Asked], form: Mapping[str, Any]) -> frozenset[str]:
    values = (form.get(entry.key) for entry in asked if entry.slot == slot)
    questions = (value.get("question") for value in values if isinstance(value, dict))
    return frozenset(_same(question) for question in questions if isinstance(question, str))


def _same(question: str) -> str:
    return " ".join(_WORD.findall(question.casefold()))


def _required_answer(answer: str, slot: Slot) -> str:
    bare = answer.casefold().rstrip(".!")
    if slot in ("yes", "no"):
        if bare != slot:
            raise _RefusalError("wrong_answer", f"the answer should be {slot!r}, got {answer!r}")
        return slot
    if bare.split(" ")[0].rstrip(",") in ("yes", "no") and len(_WORD.findall(bare)) == 1:
        raise _RefusalError("yes_no_in_open", f"an open question is answered by {answer!r}")
    return answer


def _require_styles(styles: Sequence[str]) -> None:
    unknown = [style for style in styles if style not in STYLES]
    if unknown or not styles or isinstance(styles, str):
        raise RecipeError(
            "unknown style of wording" if unknown else "no style of wording",
            where="styles",
            expected=f"at least one of {', '.join(STYLES)}",
            got=repr(styles),
            fix="choose from these",
        )


def _rejected(entry: Asked, refusal: _RefusalError) -> ParseReject:
    return ParseReject(slot=entry.slot, reason=refusal.reason, detail=refusal.detail, key=entry.key)


def _extra(key: str) -> ParseReject:
    return ParseReject(slot=key[:40], reason="extra_key", detail=f"{key[:80]!r} was not asked for", key=key[:40])


def _example_texts(example: Example) -> Iterator[str]:
    """What is particular to the example; the way its other questions are put may be taken over."""
    yield example.caption
    yield from example.facts.values()
    for slot, value in example.reply.items():
        if isinstance(value, str):
            yield value
        else:
            yield from (pair["question" if slot == "no" else "answer"] for pair in value)


def _words(*texts: str) -> frozenset[str]:
    """The words that carry meaning, in lower case and without the -s of plurals."""
    words = {word for text in texts for word in _WORD.findall(text.casefold())} - _FUNCTION_WORDS
    return frozenset(word.removesuffix("s") if len(word) > 3 else word for word in words)


def _shown(value: Any) -> str:
    return f"{value!r:.80} ({type(value).__name__.lstrip('_').lower()})"
