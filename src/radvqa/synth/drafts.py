"""From one caption and what a model replied, to candidates with the verdict of every pair screen; pure, picklable."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from radvqa.llm import Reply
from radvqa.synth.pair import Candidate, Slot, Source, Verdict
from radvqa.synth.parse import ParseReject, parse_reply
from radvqa.synth.prompt import Prompt
from radvqa.synth.rules import positive_candidates
from radvqa.synth.screens import ScreenSettings, screen_pair
from radvqa.synth.vocabulary import find_terms
from radvqa.synth.wording import presence_question

RULES = "rules@1"
"""What stands in place of a prompt for pairs that a rule made; raise it when a rule makes other pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One prompt as it is asked: which slots, how often."""

    prompt: Prompt
    counts: Mapping[Slot, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A candidate with the verdicts on it alone; ``prompt`` and ``reply`` say what it was read from."""

    candidate: Candidate
    verdicts: tuple[Verdict, ...]
    prompt: str
    reply: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReject:
    """A slot that gave no candidate: ``slot`` is ``""`` where a whole reply could not be read."""

    caption_id: str
    prompt: str
    slot: str
    reason: str
    detail: str
    reply: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafting:
    """All that drafting depends on beside the caption and its replies."""

    asked: tuple[Asked, ...]
    rule_counts: Mapping[Slot, int]
    styles: tuple[str, ...]
    screens: ScreenSettings
    seed: int
    reword_yes: bool = False
    """Whether a rule words the yes questions of a model, as it words the no questions that are added to them. Else the
    wording would tell the answer: specific words of a model yes, plain ones of a rule no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftedCaption:
    """What one caption gave before the pairs of all captions are looked at together."""

    source: Source
    drafts: tuple[Draft, ...]
    rejects: tuple[SlotReject, ...]


def drafted(item: tuple[Source, tuple[Reply | None, ...]], drafting: Drafting) -> DraftedCaption:
    """The candidates of one caption, from its replies in the order of ``drafting.asked`` (None: no reply) and by rule.

    Rules come last: they write what ``rule_counts`` asks for.
    """
    source, replies = item
    drafts: list[Draft] = []
    rejects: list[SlotReject] = []
    for asked, reply in zip(drafting.asked, replies, strict=True):
        if reply is None:
            continue
        found, missed = _read(source, asked, reply, drafting)
        drafts += found
        rejects += missed
    made = positive_candidates(source, drafting.rule_counts, drafting.styles, drafting.seed)
    drafts += [screened(one, source, drafting.screens, prompt=RULES) for one in made]
    return DraftedCaption(source=source, drafts=tuple(drafts), rejects=tuple(rejects))


def screened(candidate: Candidate, source: Source, settings: ScreenSettings, *, prompt: str, reply: str = "") -> Draft:
    """The candidate with the verdicts of all pair screens."""
    return Draft(candidate=candidate, verdicts=screen_pair(candidate, source, settings), prompt=prompt, reply=reply)


def caption_sha256(source: Source) -> str:
    """SHA-256 of the caption's text as it was asked about."""
    return hashlib.sha256(source.text.encode(errors="backslashreplace")).hexdigest()


def _read(source: Source, asked: Asked, reply: Reply, drafting: Drafting) -> tuple[list[Draft], list[SlotReject]]:
    candidates, misses = parse_reply(
        reply.text,
        finished=reply.finished,
        prompt=asked.prompt,
        counts=asked.counts,
        source=source,
        styles=drafting.styles,
        seed=drafting.seed,
    )
    if drafting.reword_yes:
        candidates = tuple(_reworded(one, source, drafting) if one.slot == "yes" else one for one in candidates)
    drafts = [screened(one, source, drafting.screens, prompt=asked.prompt.name, reply=reply.text) for one in candidates]
    return drafts, [_slot_reject(one, source, asked.prompt, reply) for one in misses]


def subject_of(candidate: Candidate) -> str:
    """What is asked for; where a model wrote the question, the first finding in it, ``""`` if there is none."""
    if candidate.subject:
        return candidate.subject
    findings = (one.term.name for one in find_terms(candidate.question) if one.term.category == "finding")
    return next(findings, "")


def _reworded(candidate: Candidate, source: Source, drafting: Drafting) -> Candidate:
    """The candidate asked in the words of a rule, if its finding is known; the licence of the caption is asked anew."""
    subject = subject_of(candidate)
    if not subject:
        return candidate
    seed = int.from_bytes(hashlib.sha256(f"{drafting.seed}\0{source.caption_id}\0{subject}".encode()).digest()[:4])
    style = drafting.styles[seed % len(drafting.styles)]
    question = presence_question(subject, style=style, seed=seed, category="finding")
    return replace(candidate, question=question, style=style, subject=subject)


def _slot_reject(miss: ParseReject, source: Source, prompt: Prompt, reply: Reply) -> SlotReject:
    return SlotReject(
        caption_id=source.caption_id,
        prompt=prompt.name,
        slot=miss.slot,
        reason=miss.reason,
        detail=miss.detail,
        reply=reply.text,
    )
