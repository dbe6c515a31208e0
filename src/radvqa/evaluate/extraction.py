"""The answer inside a model's output: which part of the text counts, and what state it is in.

Two steps. First the *region*: what is left when reasoning blocks, answer tags, boxes, the repeated question and
final-answer markers are taken away. Then *readings*: the region itself, its leading sentence, and what is left when a
sentence frame ("The modality is ...") is taken away. Every part is a span of the original text.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

from radvqa.evaluate.frames import narrow

State = Literal["answered", "missing", "empty", "refused", "unsure", "ambiguous", "no_verdict", "echo"]
"""``answered`` can be right; every other state scores 0 and is counted."""


class Reading(NamedTuple):
    """A part of the output that may be the answer, ``text[span[0]:span[1]]``, and the rules that led there."""

    rule: str
    span: tuple[int, int]

    def refined(self, rule: str, span: tuple[int, int]) -> "Reading":
        """The reading that one more rule makes of this one."""
        return Reading(rule if self.rule == "whole" else f"{self.rule}+{rule}", span)


_REASONING = r"think|thinking|thought|thoughts|reasoning|analysis|rationale|scratchpad"
_REASONING_OPEN = re.compile(rf"[<\[◁](?:{_REASONING})[>\]▷]", re.I)
_REASONING_CLOSE = re.compile(rf"[<\[◁]/(?:{_REASONING})[>\]▷]", re.I)
_ANSWER_TAG = re.compile(r"<(/?)(?:answer|final_answer|final answer|final)>|<\|(?:(begin)|end)_of_box\|>", re.I)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"[{}]")
_TEXT_COMMAND = re.compile(r"\s*\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}?\s*")
_SPECIAL = re.compile(r"\s{0,9}(?:<\|[a-z_]{1,30}\|>|<(?:eos|bos|pad|unk|end_of_turn)>|</?s>)", re.I)
_SPEAKER = re.compile(r"\s*(?:assistant|model|ai|bot|a(?!\s*:[^\n]{0,40}\bb\s*:))\s*:\s*(?=\S)", re.I)
_MARKER = re.compile(
    r"(?:\b(?:the|my|a)\s{1,5})?(?<![\w-])(?:(?:final|correct|right|best|most\s{1,5}likely)\s{1,5}){0,2}answer"
    r"(?:\s{1,5}to\s{1,5}(?:the|this|your)\s{1,5}(?:[\w/]{1,30}\s{1,5}){0,4}?question)?"
    r"(?:\s{1,3}\(yes\s?(?:/|or)\s?no\))?"
    r"(?:[\"'”]?\s{0,5}\*{0,4}\s{0,5}[:：]\s{0,5}\*{0,4}"
    r"|\s{1,5}(?:is|was|would\s{1,5}be|will\s{1,5}be|should\s{1,5}be|must\s{1,5}be)(?:\s{0,5}\*{0,4}\s{0,5}[:：])?"
    r"\s{1,5}\*{0,4}(?!whether|that\s{1,5}there)(?:therefore\s{1,5}|probably\s{1,5}|most\s{1,5}likely\s{1,5}|likely\s{1,5})?)",
    re.I,
)
_NO_ANSWER = re.compile(
    r"\b(?:can['’]?t|cannot|can not|unable|not able|won['’]?t|without|wrong|incorrect|doubt"
    r"|(?:do|would)(?:n['’]?t| not)"
    r"|unlikely|whether|if|not|never)\b[^.!?\n]*$",
    re.I,
)
_ANEW = re.compile(r"\b(?:final|finally|correct|corrected|correction|wait|actually|instead|sorry|mistake|no\W)", re.I)
"""Between two answers: the later one replaces the earlier one."""
_NEXT_TURN = re.compile(r"\n\s{0,9}\**(?:question|user|human|q)\**\s{0,3}:", re.I)
_LETTER = re.compile(r"\W{0,6}(?:option\s)?([A-H])\W{0,6}", re.I)
_VERDICT_WORD = re.compile(r"\W{0,6}(yes|no)\b", re.I)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

REFUSED = re.compile(
    r"\b(?:sorry[,.]? (?:but )?(?:i|we|that|this) (?:can|am|do|will|won|is not|question)"
    r"|as an? (?:ai|artificial|language|assistant)\b"
    r"|i(?:['’]d| would) (?:rather|prefer) not\b"
    r"|i (?:don['’]?t|do not) have (?:the|any|an) (?:ability|capability|access)\b"
    r"|no comment\b|no (?:image|picture|answer|information)s?(?: (?:was|is|were))?"
    r"(?: (?:provided|available|given))?\W*$"
    r"|je ne peux pas|kann (?:ich|das) (?:\w+ )?nicht (?:beantworten|sagen|beurteilen)|no puedo (?:responder|contestar)"
    r"|(?:i(?:['’]m| am)|we are) (?:not able|unable) to (?:answer|provide|help|assist|give|offer|interpret|diagnose"
    r"|view|process|analy[sz]e|see (?:the |any )?images?)\b"
    r"|i (?:can['’]?t|cannot|can not|won['’]?t|will not) (?:answer|provide|help|assist|give|offer|interpret|diagnose"
    r"|view|process|analy[sz]e|comply|see (?:the |any )?images?)\b"
    r"|i(?:['’]m| am) not (?:a |an |your )?(?:doctor|physician|radiologist|qualified|licensed|allowed)\b"
    r"|(?:please )?consult (?:a|your|with)\b|unable to (?:answer|provide|assist|help|process|view)\b)",
    re.I,
)
_JUDGE = (
    r"(?:tell|say|determine|assess|judge|know|conclude|confirm|decide|evaluate|identify|ascertain|discern|establish"
    r"|answer|comment|make out)"
)
UNSURE = re.compile(
    rf"\b(?:too (?:poor|low|bad|blurr(?:ed|y)|dark|noisy)(?: \w+){{0,3}} to {_JUDGE}"
    rf"|(?:not |im)possible (?:for (?:me|us) )?to (?:reliably |definitively |really |be )?{_JUDGE}"
    rf"|weiß (?:ich |es |das )*nicht|(?:ne|n['’]en) sa(?:is|it) (?:pas|rien)|no (?:lo )?(?:sé|se sabe)|keine ahnung"
    rf"|no es posible|not (?:entirely |completely |really |quite |100 ?% )?(?:sure|certain|clear (?:if|whether|from))"
    rf"|unsure|uncertain (?:if|whether|about)|unclear (?:if|whether|from)|no idea"
    rf"|(?:don['’]?t|do not|can['’]?t|cannot|does not|doesn['’]?t) (?:really )?know"
    rf"|(?:can['’]?t|cannot|can not|could not|couldn['’]?t|unable to|not able to|(?:not |im)possible to|difficult to"
    rf"|hard to|not enough information to|insufficient information to) (?:reliably |definitively |really |be )?{_JUDGE}"
    rf"|(?:can['’]?t|cannot|can not|could not|couldn['’]?t) be (?:reliably |definitively |entirely |completely )?"
    rf"(?:determined|assessed|excluded|ruled out|evaluated|judged|confirmed|established|answered|known|interpreted"
    rf"|read|identified with)"
    rf"|(?:can['’]?t|cannot|can not|could not) (?:rule out|exclude)"
    rf"|(?:not|in)sufficient (?:information|evidence|data)|not enough (?:information|evidence|data)"
    rf"|may or may not)\b",
    re.I,
)
_UNSURE_AS_ANSWER = re.compile(
    r"^\W*(?:(?:it|this|that|the (?:answer|diagnosis|finding|cause|result|modality|organ))(?: is|['’]s| remains)\s+)?"
    r"(?:unknown|unclear|uncertain|undetermined|indeterminate|inconclusive|unsure|not (?:known|certain|sure)"
    r"|n/?a|not applicable|je ne sais pas|no (?:lo )?s[eé]|maybe|perhaps|possibly|cannot tell|can['’]?t tell|idk)\W*$",
    re.I,
)
_SORRY = re.compile(r"\W*(?:i(?:['’]m| am) (?:very |so |really )?sorry|sorry|i apologi[sz]e|my apologies)\W*", re.I)
_GOES_ON = re.compile(
    r"\b(?:however|but|nevertheless|nonetheless|that said|still)\b[\s,]{1,5}(?:yes\b|no\b|there (?:is|are|was|were)\b"
    r"|it (?:is|shows|appears)\b|the \w+(?: \w+)? (?:is|are|shows?|appears?)\b"
    r"|i (?:do |can )?(?:see|think|believe|would say)\b"
    r"|this (?:is|image)\b|based on\b)",
    re.I,
)
"""What follows a refusal and answers after all."""
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bDr)(?<!\bFig)[.!?](?=\s)|\n")
_LAST = 20
"""Answer tags and boxes that are compared, from the last one."""
_LOOKED_AT = 2000
"""Characters at the start of a region in which refusals and uncertainty are looked for."""


def answer_region(text: str, question: str) -> Reading:
    """The part of ``text`` that is meant as the answer, by tags, markers and the repeated question."""
    rules: list[str] = []
    start, end = 0, _before_next_turn(text, question)
    for rule, needs, step in (
        ("reasoning_removed", "<[◁", _after_reasoning),
        ("answer_tag", "<", _in_answer_tag),
        ("boxed", "\\", _in_box),
        ("special_tokens", "<", _without_special_tokens),
        ("speaker", ":", _after_speaker),
    ):
        found = step(text, start, end) if any(sign in text for sign in needs) else None
        if found is not None:
            several = _several_contents(text, start, end, rule)
            if several is not None:
                return Reading("several_answers", several)
            rules.append(rule)
            start, end = found
    after_echo = _after_echo(text, start, end, question)
    if after_echo is not None:
        rules.append("question_removed")
        start = after_echo
    marker = _after_marker(text, start, end)
    if marker is not None:
        if isinstance(marker, tuple):
            return Reading("several_answers", marker)
        rules.append("final_answer_marker")
        letter = _LETTER.fullmatch(text, marker, end) if end - marker < 20 else None
        option = _option(text, start, marker, letter[1]) if letter is not None else None
        start, end = option if option is not None else (marker, end)
    return Reading("+".join(rules) or "whole", (start, end))


def _after_reasoning(text: str, start: int, end: int) -> tuple[int, int] | None:
    """After the last closed reasoning block; an unclosed one leaves only an answer tag, if there is one."""
    closed = _last(_REASONING_CLOSE, text, start, end)
    if closed is not None:
        start_after = closed.end()
        opened = _last(_REASONING_OPEN, text, start_after, end)
        if opened is None:
            if _has_word(text[start_after:end]):
                return start_after, end
            # The block stands after the answer.
            first = _REASONING_OPEN.search(text, start, end)
            return (
                (start, first.start()) if first is not None and _has_word(text[start : first.start()]) else (end, end)
            )
        start = start_after
    opened = _REASONING_OPEN.search(text, start, end)
    if opened is None:
        return None
    if _has_word(text[start : opened.start()]):
        return start, opened.start()
    tag = _last_opened_answer(text, opened.end(), end)
    return (tag, end) if tag is not None else (end, end)


def _last_opened_answer(text: str, start: int, end: int) -> int | None:
    opened = [tag.start() for tag in _ANSWER_TAG.finditer(text, start, end) if _opens(tag)]
    return opened[-1] if opened else None


def _in_answer_tag(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Inside the last answer tag that is closed, else after the last one that is opened, else before a closing one."""
    opened: re.Match[str] | None = None
    pair: tuple[int, int] | None = None
    lone_close: int | None = None
    for tag in _ANSWER_TAG.finditer(text, start, end):
        if _opens(tag):
            opened = tag
        elif opened is not None:
            pair, opened = (opened.end(), tag.start()), None
        elif pair is None and lone_close is None:
            lone_close = tag.start()
    if pair is not None:
        return pair
    if opened is not None:
        return opened.end(), end
    return (start, lone_close) if lone_close is not None and _has_word(text[start:lone_close]) else None


def _opens(tag: re.Match[str]) -> bool:
    return tag[2] is not None or (tag[0][1] != "|" and not tag[1])


def _in_box(text: str, start: int, end: int) -> tuple[int, int] | None:
    r"""Inside the last ``\boxed{...}``, braces balanced, or to the end where it is not closed."""
    box = _last(_BOXED, text, start, end)
    if box is None:
        return None
    close = _box_end(text, box.end(), end)
    if not _has_word(text[box.end() : close]):
        return None
    command = _TEXT_COMMAND.fullmatch(text, box.end(), close) if close - box.end() < _LOOKED_AT else None
    return command.span(1) if command is not None else (box.end(), close)


def _without_special_tokens(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Without the tokens of a chat template in front, and up to the first one after."""
    begin = start
    while (found := _SPECIAL.match(text, begin, end)) is not None:
        begin = found.end()
    last = _SPECIAL.search(text, begin, end)
    stop = last.start() if last is not None and _has_word(text[begin : last.start()]) else end
    return (begin, stop) if (begin, stop) != (start, end) else None


def _after_speaker(text: str, start: int, end: int) -> tuple[int, int] | None:
    found = _SPEAKER.match(text, start, end)
    return None if found is None else (found.end(), end)


def _after_echo(text: str, start: int, end: int, question: str) -> int | None:
    """Where the answer goes on after the question, word for word, at its beginning; None if it is not there."""
    words = question_words(question)
    if len(words) < 3:
        return None
    at = start
    for count, found in enumerate(_WORD.finditer(text, start, end)):
        if count == len(words):
            # A sentence that merely begins with the words of the question goes on without a stop.
            return at if re.search(r"[?:\n.]", text[at : found.start()]) else None
        if found[0].lower() != words[count]:
            return None
        at = found.end()
    return None


@lru_cache(maxsize=4096)
def question_words(question: str) -> tuple[str, ...]:
    """The words of the question in lower case."""
    return tuple(word.lower() for word in _WORD.findall(question))


def _after_marker(text: str, start: int, end: int) -> int | tuple[int, int] | None:
    """After the last final-answer marker that something follows; a span where two markers give different answers."""
    usable = [
        marker
        for marker in _MARKER.finditer(text, start, end)
        if _has_word(text[marker.end() : min(end, marker.end() + _LOOKED_AT)])
        and not _NO_ANSWER.search(text[max(start, marker.start() - 60) : marker.start() + 12].partition("answer")[0])
    ]
    if not usable:
        return None
    last = usable[-1]
    if len(usable) > 1:
        before = usable[-2]
        words = [_VERDICT_WORD.match(text, marker.end(), end) for marker in (before, last)]
        said = {word[1].lower() for word in words if word is not None}
        if len(said) > 1 and words[0] is not None and not _ANEW.search(text, words[0].end(), last.end()):
            return before.end(), end
    return last.end()


def _before_next_turn(text: str, question: str) -> int:
    """Where the model goes on to ask itself another question; the end of the text if it does not."""
    asked = question_words(question)
    for turn in _NEXT_TURN.finditer(text):
        if _has_word(text[: turn.start()]):
            following = tuple(word.lower() for word in _WORD.findall(text[turn.end() : turn.end() + 200])[: len(asked)])
            return len(text) if following == asked else turn.start()
    return len(text)


def _several_contents(text: str, start: int, end: int, rule: str) -> tuple[int, int] | None:
    """From the first to the last of several tags or boxes with different contents, unless the last one corrects."""
    if rule == "answer_tag":
        spans = _closed_tags(text, start, end)
    elif rule == "boxed":
        boxes = [box.end() for box in _BOXED.finditer(text, start, end)][-_LAST:]
        spans = [(box, _box_end(text, box, end)) for box in boxes]
    else:
        return None
    spans = [span for span in spans[-_LAST:] if _has_word(text[slice(*span)])]
    contents = {" ".join(_WORD.findall(text[slice(*span)].lower())) for span in spans}
    if len(contents) < 2 or _ANEW.search(text, spans[-2][1], spans[-1][0]):
        return None
    return spans[0][0], spans[-1][1]


def _closed_tags(text: str, start: int, end: int) -> list[tuple[int, int]]:
    spans, opened = [], None
    for tag in _ANSWER_TAG.finditer(text, start, end):
        if _opens(tag):
            opened = tag.end()
        elif opened is not None:
            spans.append((opened, tag.start()))
            opened = None
    return spans


def _box_end(text: str, start: int, end: int) -> int:
    depth = 1
    for brace in _BRACE.finditer(text, start, end):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    return end


def _option(text: str, start: int, end: int, letter: str) -> tuple[int, int] | None:
    """The yes or no that an option letter stands for, where the options are written out before it."""
    found = re.compile(rf"(?:^|[\s(]){letter}[).:]\s{{1,3}}(yes|no)\b", re.I).search(text, start, end)
    return None if found is None else found.span(1)


def narrower_readings(text: str, region: Reading, question: str) -> Iterator[Reading]:
    """Parts of the region that may be the answer, ever narrower."""
    start, end = region.span
    if region.rule == "several_answers":
        return
    for rule, span in narrow(text[start:end], question):
        yield region.refined(rule, (start + span[0], start + span[1]))


def answer_state(text: str, region: Reading, question: str) -> tuple[State, Reading]:  # noqa: PLR0911
    """Whether the region answers at all, with the rule and the span that decided it."""
    span = region.span
    start = span[0]
    if not _has_word(text[slice(*span)]):
        return "empty", Reading(region.rule if _has_word(text) else "no_word", span)
    end = min(span[1], start + _LOOKED_AT)
    whole = span[1] - start <= _LOOKED_AT
    if region.rule == "several_answers":
        return "ambiguous", region
    if whole and _echoes(text[start:end], question):
        return "echo", Reading("echo", span)
    if _SORRY.fullmatch(text, start, end) is not None:
        return "refused", Reading("refusal", span)
    sentence = _SENTENCE_END.search(text, start, end)
    for one in ((start, sentence.start() if sentence is not None else end), (start, end)):
        refused = REFUSED.search(text, *one)
        after_all = _GOES_ON.search(text, refused.end(), end) if refused is not None else None
        if after_all is not None and not (
            REFUSED.search(text, after_all.end(), end) or UNSURE.search(text, after_all.end(), end)
        ):
            return "answered", region
        if refused is not None:
            return "refused", Reading("refusal", refused.span())
        unsure = UNSURE.search(text, *one) or (_UNSURE_AS_ANSWER.match(text[one[0] : one[1]]) and Reading("", one))
        if unsure:
            found = unsure.span() if isinstance(unsure, re.Match) else unsure.span
            return "unsure", Reading("uncertainty", found)
        # Only an opening that says nothing else makes a later sentence count.
        if not re.match(r"\W*(?:based on|from|given|thank|hello|hi|sure|okay|ok)\b", text[start:end], re.I):
            break
    return "answered", region


def _echoes(part: str, question: str) -> bool:
    """Whether the text is nothing but the question, once or several times."""
    asked = question_words(question)
    if len(part) < len(question) // 2:
        return False
    words = question_words(part)
    if not asked or not words or len(words) % len(asked):
        return False
    return words == asked * (len(words) // len(asked))


def _last(pattern: re.Pattern[str], text: str, start: int, end: int) -> re.Match[str] | None:
    found = None
    for one in pattern.finditer(text, start, end):
        found = one
    return found


def _has_word(text: str) -> bool:
    return _A_WORD.search(text) is not None


_A_WORD = re.compile(r"[^\W_]")
