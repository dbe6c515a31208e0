"""Screens that look at one pair beside its source: each says why the pair does not pass, or None.

All of them see every pair, so that each has its own statistic; a pair's reason is the first screen that it fails, in
the order of ``PAIR_SCREENS``.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from radvqa.audit.rows import PLACEHOLDER, SOURCE_WORDS
from radvqa.data.answers import is_yes_no
from radvqa.evaluate.normalise import normalise_answer
from radvqa.synth.licence import content_stems, unlicensed
from radvqa.synth.pair import Candidate, Source, Verdict
from radvqa.synth.screen_words import (
    ASKS_MEASURE,
    ENGLISH,
    FOREIGN,
    GUESSED,
    HISTORY,
    MEASURE,
    OTHER_IMAGES,
    OVERLAY,
    PANEL_LETTER,
    SOURCE,
    SPECULATION,
    SYMBOL,
)
from radvqa.synth.vocabulary import find_terms, names_within, term_named


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenSettings:
    """Thresholds of all screens. A screen named in ``off`` gives no verdict.

    ``shortest_caption_words`` and ``longest_answer_words`` are the last lengths that pass. ``near_duplicate`` is the
    likeness, 0 to 1, from which two questions are the same; ``embeddings`` measures it with sentence embeddings too.
    ``yes_share`` of all yes/no answers is aimed at, None for no rebalancing. A question is answerable without the image
    if at least ``prior_groups`` other groups answer it, ``prior_share`` of them alike.
    """

    off: tuple[str, ...] = ()
    shortest_caption_words: int = 4
    longest_answer_words: int = 12
    longest_question_words: int = 40
    answer_share_in_question: float = 0.9
    near_duplicate: float = 0.9
    embeddings: bool = False
    yes_share: float | None = 0.5
    yes_tolerance: float = 0.02
    prior_groups: int = 5
    prior_share: float = 0.9
    seed: int = 0


Screen = Callable[[Candidate, Source, ScreenSettings], str | None]


def screen_pair(candidate: Candidate, source: Source, settings: ScreenSettings) -> tuple[Verdict, ...]:
    """The verdict of every screen that is not switched off, in the order of ``PAIR_SCREENS``."""
    verdicts = []
    for name, screen in PAIR_SCREENS.items():
        if name not in settings.off:
            detail = screen(candidate, source, settings)
            verdicts.append(Verdict(screen=name, passed=detail is None, detail=detail or ""))
    return tuple(verdicts)


def reason_of(verdicts: Iterable[Verdict]) -> str:
    """The first screen that was not passed; ``""`` if all were."""
    return next((verdict.screen for verdict in verdicts if not verdict.passed), "")


def caption_problem(source: Source, settings: ScreenSettings) -> Verdict | None:
    """The screen by which nothing can be asked about the words of a caption; None where something can."""
    for name, problem in (("placeholder_caption", _placeholder(source)), ("short_caption", _short(source, settings))):
        if problem is not None and name not in settings.off:
            return Verdict(screen=name, passed=False, detail=problem)
    return None


def placeholder_caption(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """The caption stands in for one and says nothing. Pairs on facts beside it pass."""
    return None if candidate.basis == "fact" else _placeholder(source)


def short_caption(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """The caption has too few words to ask about. Pairs on facts beside it pass."""
    return None if candidate.basis == "fact" else _short(source, settings)


def _placeholder(source: Source) -> str | None:
    found = PLACEHOLDER.search(source.text)
    return f"the caption is a placeholder: {found[0]!r}" if found else None


def _short(source: Source, settings: ScreenSettings) -> str | None:
    words = len(source.text.split())
    return f"the caption has {_count(words, 'word')}" if words < settings.shortest_caption_words else None


_QUESTION_WORD = r"what|which|where|who|whose|whom|when|why|how"
_AUXILIARY = r"is|are|was|were|does|do|did|has|have|had|can|could|will|would|should|may|might|must"
_IMPERATIVE = (
    r"name|state|say|describe|explain|compare|identify|give|grade|list|tell|specify|locate|indicate|report|determine|"
    r"mention|point out"
)
_POLITE = re.compile(rf"^(?:can|could|would|will) you (?:please )?(?:{_IMPERATIVE})\b", re.IGNORECASE)
_WHETHER = re.compile(rf"^(?:{_IMPERATIVE})(?: me)? (?:whether|if)\b", re.IGNORECASE)
_ASKS_YES_NO = re.compile(rf"^(?:{_AUXILIARY})(?:n't)?\b", re.IGNORECASE)
_ASKS_OPEN = re.compile(rf"\b(?:{_QUESTION_WORD})\b|^(?:{_IMPERATIVE})\b", re.IGNORECASE)
_ASKS_OPEN_ONLY = re.compile(rf"^(?:(?:in|on|at|from|with|by|of|to|for) )?(?:{_QUESTION_WORD})\b", re.IGNORECASE)
_SECOND_QUESTION = re.compile(
    rf"\?.*\?|[,;]?\s*\band,? (?:{_QUESTION_WORD}|(?:{_AUXILIARY}) (?:it|they|there|this|the))\b",
    re.IGNORECASE | re.DOTALL,
)
_LIST_MARK = re.compile(
    r"^\s*(?:[-*•]+\s|\*\*|#+\s|\(?\d{1,2}[.):]\s|q(?:uestion)?\s*\d*\s*[:.)]|a(?:nswer)?\s*\d*\s*:)", re.IGNORECASE
)
_PICTURE = r"(?:\w+ )?(?:image|picture|scan|film|study|photo|figure|examination|view|slice)s?"
_HERE = rf"(?: here| (?:in|on|by|from|about|of)(?: (?:this|the|these|an?))? {_PICTURE})?"
_SEEN = (
    r"(?:shown|seen|visible|displayed|depicted|observed|pictured|presented|illustrated|demonstrated|happening|going on)"
)
_COULD_BE_ANYTHING = re.compile(
    rf"^(?:what|which)(?: is| are| was|'s| can be)(?: (?:this|that|it|these|there)| {_SEEN}){_HERE}$"
    rf"|^what (?:do|can|could) (?:you|we|one) (?:see|say|tell|observe|conclude){_HERE}$"
    rf"|^what does (?:this|it|(?:this |the ){_PICTURE}) "
    r"(?:show|depict|display|demonstrate|illustrate|reveal|represent)$"
    rf"|^(?:describe|explain) (?:the |this )?{_PICTURE}$",
    re.IGNORECASE,
)
_OFFERS = re.compile(r"\bor\b|\bversus\b|\bvs\b", re.IGNORECASE)


def malformed_question(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """There is no question, there are several, it could be answered with anything, or the answer is of another kind."""
    question = candidate.question.strip()
    if mark := _LIST_MARK.match(question) or _LIST_MARK.match(candidate.answer):
        return f"the mark of a list stands before the text: {mark[0].strip()!r}"
    return _no_single_question(question, settings) or _other_kind_of_answer(question, candidate.answer)


def _no_single_question(question: str, settings: ScreenSettings) -> str | None:
    words = question.split()
    if len(words) > settings.longest_question_words:
        return f"the question has {_count(len(words), 'word')}"
    if len(words) < 2 or not (_ASKS_OPEN.search(question) or _ASKS_YES_NO.match(question)):
        return "nothing is asked"
    if _SECOND_QUESTION.search(question):
        return "there are several questions"
    if _COULD_BE_ANYTHING.match(" ".join(question.strip(" ?.!").split())):
        return "the question could be answered with anything in the image"
    return None


def _other_kind_of_answer(question: str, answer: str) -> str | None:
    if not any(character.isalnum() for character in answer):
        return "there is no answer"
    asks_yes_no = _WHETHER.match(question) or (_ASKS_YES_NO.match(question) and not _POLITE.match(question))
    if asks_yes_no and not is_yes_no(answer) and not _OFFERS.search(question):
        return "a question for yes or no has another answer"
    if is_yes_no(answer) and _ASKS_OPEN_ONLY.match(question):
        return "an open question is answered with yes or no"
    return None


def wrong_kind(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """The answer is no value of its slot: a finding where an organ is asked for, a modality where a place is."""
    if candidate.slot not in _KINDS:
        return None
    wanted, others = _KINDS[candidate.slot]
    mentions = find_terms(candidate.answer)
    findings = [one for one in mentions if one.term.category == "finding"]
    if candidate.slot == "finding" and findings and all(one.negated for one in findings):
        return f"{findings[0].text!r} is denied, so it is no finding"
    # A word alone may be a view ("lateral") that in a sentence is none; a finding may hold the name of its organ.
    names = {candidate.answer, *names_within(candidate.answer)}
    found = {term.category for term in map(term_named, names) if term is not None}
    if found & wanted or (others is not None and not found & others):
        return None
    return f"{candidate.answer!r} is no {candidate.slot}"


_KINDS: Mapping[str, tuple[frozenset[str], frozenset[str] | None]] = MappingProxyType(
    {
        "modality": (frozenset({"modality"}), None),
        "plane": (frozenset({"plane"}), None),
        "organ": (frozenset({"organ"}), frozenset({"finding", "modality", "plane", "severity"})),
        "finding": (frozenset({"finding"}), frozenset({"plane"})),
        "location": (frozenset({"organ", "side"}), frozenset({"finding", "modality", "plane", "severity"})),
    }
)
"""By slot: categories of the vocabulary of which an answer must hold one; where others are named, an answer without any
known word passes too, since the vocabulary does not hold every organ and finding."""


def long_answer(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """The answer has more words than it may: it is a sentence, and the exact match of a sentence tells little."""
    words = len(candidate.answer.split())
    return f"the answer has {_count(words, 'word')}" if words > settings.longest_answer_words else None


def wrong_language(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """Question or answer is not in English, by its letters or by its function words.

    Statistical identifiers are trained on longer texts and take "hepatic hemangioma" for Italian or Latin, so only
    words that English does not have count: at least two of one language, and more than there are of English.
    """
    for what, text in (("question", candidate.question), ("answer", candidate.answer)):
        if problem := _other_script(text) or _other_language(text):
            return f"the {what} {problem}"
    return None


def _other_script(text: str) -> str | None:
    if text.isascii():
        return None
    scripts = [(letter, unicodedata.name(letter, "").partition(" ")[0]) for letter in text if letter.isalpha()]
    # Greek letters name things in English too: "α-fetoprotein", "angle θ".
    strange = [
        letter for letter, script in scripts if script not in ("LATIN", "GREEK", "MICRO", "FEMININE", "MASCULINE")
    ]
    greek = {letter for letter, script in scripts if script == "GREEK"}
    found = strange or (sorted(greek) if len(greek) > 3 else [])
    return f"has letters of another script: {''.join(found[:10])!r}" if found else None


def _other_language(text: str) -> str | None:
    words = re.findall(r"[^\W\d_]+", text.casefold())
    english = sum(word in ENGLISH for word in words)
    for language, known in FOREIGN.items():
        found = [word for word in words if word in known]
        if len(set(found)) >= 2 and len(found) > english:
            return f"looks {language}: {', '.join(dict.fromkeys(found))}"
    return None


def mentions_source(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """Question or answer speaks of the text that the pair was made from, which nobody sees in the picture."""
    return _found(candidate, (SOURCE_WORDS, SOURCE), "speaks of its source")


def needs_history(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """Question or answer is about the patient, the course of the disease, its cause or its treatment."""
    return _found(candidate, (HISTORY,), "is about what no single picture shows")


def needs_other_images(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """Question or answer is about several pictures, or about what changed between them."""
    return _found(candidate, (OTHER_IMAGES, PANEL_LETTER), "needs other pictures")


def text_overlay(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """Question or answer is about arrows, letters or other marks that were drawn into the picture."""
    return _found(candidate, (OVERLAY, SYMBOL), "is about marks drawn into the picture")


def measurement(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """A measure is asked for or stated: without a scale it cannot be seen."""
    if asked := ASKS_MEASURE.search(candidate.question.lower()):
        return f"the question asks for a measure: {asked[0]!r}"
    return _found(candidate, (MEASURE,), "holds a measure")


def speculation(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """The question asks for a guess, or the answer is a guess, a refusal or no answer."""
    if found := GUESSED.match(candidate.answer.lower()):
        return f"the answer is a guess: {found[0]!r}"
    return _found(candidate, (SPECULATION,), "is a guess or a refusal")


def _found(candidate: Candidate, patterns: Sequence[re.Pattern[str]], what: str) -> str | None:
    for name, text in (("question", candidate.question), ("answer", candidate.answer)):
        for pattern in patterns:
            if found := pattern.search(text if pattern in (PANEL_LETTER, SOURCE_WORDS) else text.lower()):
                return f"the {name} {what}: {found[0].strip()!r}"
    return None


def answer_in_question(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """The question holds its answer, or nearly all its content words and every term.

    Yes, no and offered choices pass, and so does the degree in "How severe is it?".
    """
    if is_yes_no(candidate.answer) or (_ASKS_DEGREE.search(candidate.question) and _is_degree(candidate.answer)):
        return None
    if _SAYS_MORE.search(candidate.answer) and not _SAYS_MORE.search(candidate.question):
        return None
    question, answer = normalise_answer(candidate.question), normalise_answer(candidate.answer)
    inside = f" {answer} " in f" {question} "
    if _OFFERS.search(candidate.question):
        return None
    if inside and answer and answer not in ("much", "many"):
        return "the answer stands in the question"
    stems = content_stems(candidate.answer)
    shared = stems & content_stems(candidate.question)
    # "The left lung" answers "Which lung?" although half of it is in the question.
    new_terms = _term_names(candidate.answer) - _term_names(candidate.question)
    most = len(shared) >= settings.answer_share_in_question * len(stems) and not new_terms
    if stems and (shared == stems or most):
        return f"{len(shared)} of {_count(len(stems), 'content word')} of the answer stand in the question"
    return None


# Small words that can be all that an answer adds to its question.
_SAYS_MORE = re.compile(r"\b(?:no|not|none|never|without|more|less|than)\b", re.IGNORECASE)
_ASKS_DEGREE = re.compile(r"\bhow (?:severe|marked|large|small|extensive)\b|\bseverity\b|\bdegree\b", re.IGNORECASE)


def _is_degree(text: str) -> bool:
    term = term_named(text.strip(" ."))
    return term is not None and term.category == "severity"


def _term_names(text: str) -> set[str]:
    return {mention.term.name for mention in find_terms(text)}


_COUNTING = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty
"""
_ORDERING = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_ROMAN = {"ii": "2", "iii": "3", "iv": "4", "vi": "6", "vii": "7", "viii": "8", "ix": "9"}
# Words that hold a number but seldom count: "one of them", "the second portion", "a pair".
_SELDOM_COUNT: Mapping[str, str] = {
    **dict.fromkeys(("a", "an", "one", "single", "solitary", "unilateral", "first"), "1"),
    **dict.fromkeys(("both", "bilateral", "bilaterally", "pair", "double", "second"), "2"),
}
_VALUES: Mapping[str, str] = {
    **{word: str(value) for words in (_COUNTING, _ORDERING) for value, word in enumerate(words.split())},
    **_ROMAN,
    **_SELDOM_COUNT,
}
_WORD_OR_DECIMAL = re.compile(r"\d+(?:\.\d+)+|\w+")
_DIGITS = re.compile(r"(\d+(?:\.\d+)?)(?:st|nd|rd|th|mm|cm|ml|cc|hu|kg|t|d|f|x)?")


def invented_number(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """Question or answer holds a number, in digits or spelled out, that caption and facts do not.

    Names of levels and sequences ("L4", "T2") are words, which ``answer_not_licensed`` looks at.
    """
    known = _numbers(". ".join((source.text, *source.facts.values())), counted_only=False)
    for name, text in (("question", candidate.question), ("answer", candidate.answer)):
        for value, written in _numbers(text, counted_only=True).items():
            if value not in known:
                return f"the {name} holds {written!r}, which the caption does not"
    return None


def _numbers(text: str, *, counted_only: bool) -> dict[str, str]:
    """The numbers of a text by their value, with the word as it stands.

    ``counted_only`` leaves out words that seldom count, and numbers in names such as "L4", "3D" and "type II".
    """
    found: dict[str, str] = {}
    for word in _WORD_OR_DECIMAL.findall(text.casefold()):
        if counted_only and (word in _SELDOM_COUNT or word in _ROMAN or word in ("2d", "3d", "4d")):
            continue
        if word in _VALUES:
            found.setdefault(_VALUES[word], word)
        elif digits := _DIGITS.fullmatch(word):
            found.setdefault(_plain(digits[1]), word)
        elif not counted_only:
            for part in re.findall(r"\d+(?:\.\d+)?", word):
                found.setdefault(_plain(part), word)
    return found


def _plain(number: str) -> str:
    return number.strip("0").removesuffix(".") if "." in number else str(int(number))


def answer_not_licensed(candidate: Candidate, source: Source, settings: ScreenSettings) -> str | None:
    """Caption and facts do not license the pair; see ``radvqa.synth.licence``."""
    return unlicensed(candidate, source)


PAIR_SCREENS: Mapping[str, Screen] = MappingProxyType(
    {
        screen.__name__: screen
        for screen in (
            placeholder_caption,
            short_caption,
            malformed_question,
            wrong_kind,
            wrong_language,
            mentions_source,
            needs_history,
            needs_other_images,
            text_overlay,
            measurement,
            speculation,
            long_answer,
            answer_in_question,
            invented_number,
            answer_not_licensed,
        )
    }
)
"""All pair screens by name, in the order in which a reason is looked for."""

SET_SCREENS = (
    "contradiction",
    "duplicate",
    "near_duplicate",
    "broken_dialogue",
    "answerable_without_image",
    "yes_no_balance",
)
"""Names of the screens that look at all pairs together; ``radvqa.synth.set_screens`` runs them in this order."""

SCREEN_NAMES: tuple[str, ...] = (*PAIR_SCREENS, *SET_SCREENS)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
