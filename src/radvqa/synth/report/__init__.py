"""The page of a synthesis: one HTML file with everything in it, made from the files of its folder.

Only ``summary.json`` must be there. Every other file may be absent, and the section that needs it then says so.
Captions, questions and replies are foreign texts: all of them are escaped, long ones are cut.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment

from radvqa.data.adapters.synthetic import PAIRS, SUMMARY
from radvqa.html import Picture, page_environment, thumbnail
from radvqa.llm import Failure
from radvqa.records import read_json, read_optional, write_text
from radvqa.sample import Reject
from radvqa.synth.drafts import SlotReject
from radvqa.synth.pair import Source, SyntheticPair
from radvqa.synth.report.contents import (
    Counts,
    ScreenCounts,
    Spent,
    SynthSummary,
    flat,
    read_recipe,
    read_summary,
    without_folders,
)
from radvqa.synth.report.wording import (
    BASES,
    CAPTIONS,
    EMPTY_SLOTS,
    FAILURES,
    SCREENS,
    decimal,
    duration,
    grouped,
    money,
    percent,
    shortened,
    spelled,
)
from radvqa.synth.review import FOLDER, QUEUE_FILE, open_review
from radvqa.synth.review.figures import Group, ReviewFigures, figures

KEPT_EXAMPLES = 12
REJECTED_EXAMPLES = 4
"""For each reason."""
REPLY_EXAMPLES = 2
"""For each reason why a slot is empty."""

CARD_PIXELS, SMALL_PIXELS = 256, 112
LONGEST_CAPTION, LONGEST_TEXT, LONGEST_REPLY = 400, 300, 600
"""Characters on the page; the files of the folder have the whole texts."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPair:
    """One pair as the page shows it. ``earlier`` holds the turns before it in its dialogue."""

    pair: SyntheticPair
    picture: Picture
    caption: str
    facts: str
    earlier: tuple[SyntheticPair, ...]
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownScreen:
    """One screen with its bars: widths in percent of the screen that failed most."""

    name: str
    meaning: str
    counts: ScreenCounts
    alone_width: float
    shared_width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One value of a distribution; ``width`` in percent of the most frequent one."""

    name: str
    count: int
    share: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownReason:
    """Why something gave no pair, how often, and examples."""

    name: str
    meaning: str
    count: int
    examples: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """What the folder holds beside the summary."""

    kept: Sequence[SyntheticPair]
    rejected: Sequence[SyntheticPair]
    slots: Sequence[SlotReject]
    captions: Mapping[str, str]
    caption_rejects: Sequence[Reject]
    failures: Sequence[Failure]
    seed: int


def write_report(folder: Path) -> Path:
    """The path of ``report.html`` in the folder of a synthesis, written anew from the other files there.

    The same files give the same bytes. A review that has begun is opened, none is begun.

    Raises:
        RunError: there is no summary yet, a file is damaged, the folder is not writable, or the review does not belong
            to these pairs.
        DataError: a line of a JSON Lines file cannot be read.
    """
    summary = read_summary(folder / SUMMARY)
    recipe, values = read_recipe(folder / "recipe.yaml")
    files = _read(folder, seed=int(values.get("seed", 0)))
    provenance = read_json(folder / "provenance.json", dict[str, Any]) or {}
    command = folder / "command.txt"
    context: dict[str, Any] = {
        "name": values.get("name", folder.name),
        "folder": folder.name,
        "summary": summary,
        "spent": read_json(folder / "account.json", Spent),
        "kept_examples": [
            _shown(pair, files, side=CARD_PIXELS) for pair in spread(files.kept, KEPT_EXAMPLES, files.seed)
        ],
        "screens": shown_screens(summary.screens),
        "screens_off": [str(one) for one in _section(values, "screens").get("off") or ()],
        "yes_aim": _section(values, "screens").get("yes_share"),
        "reasons": _rejected_reasons(summary.reasons, files),
        "empty_slots": _empty_reasons(summary.empty_slots, files),
        "distributions": _distributions(summary),
        "caption_reasons": _caption_reasons(summary, files),
        "failure_reasons": _failure_reasons(summary, files),
        "review": _review(folder, files),
        "prompts": _prompts([*files.kept, *files.rejected]),
        "recipe": without_folders(recipe),
        "command": without_folders(command.read_text(encoding="utf-8", errors="replace")) if command.is_file() else "",
        "provenance": flat(provenance),
        "identity": _identity(summary, provenance),
        "bases": BASES,
    }
    page = folder / "report.html"
    write_text(page, _environment().get_template("synth.html").render(context))
    return page


def spread(pairs: Sequence[SyntheticPair], count: int, seed: int) -> list[SyntheticPair]:
    """At most ``count`` of the pairs, taking turns over slots and pictures.

    The order within a slot is that of a hash of seed and id: it favours nothing and is the same every time.
    """
    waiting: dict[str, list[SyntheticPair]] = defaultdict(list)
    for pair in _drawn(pairs, seed, of=lambda one: one.sample.sample_id):
        waiting[pair.slot].append(pair)
    chosen: list[SyntheticPair] = []
    shown: Counter[str] = Counter()
    while len(chosen) < count and waiting:
        for slot in sorted(waiting)[: count - len(chosen)]:
            members = waiting[slot]
            best = min(members, key=lambda one: shown[one.sample.image_id])
            members.remove(best)
            chosen.append(best)
            shown[best.sample.image_id] += 1
            if not members:
                del waiting[slot]
    return chosen


def shown_screens(screens: Mapping[str, ScreenCounts]) -> list[ShownScreen]:
    """The screens in the order in which they are applied, with what each of them is for."""
    most = max((one.failed for one in screens.values()), default=0) or 1
    return [
        ShownScreen(
            name=name,
            meaning=SCREENS.get(name, ""),
            counts=one,
            alone_width=100 * one.failed_alone / most,
            shared_width=100 * (one.failed - one.failed_alone) / most,
        )
        for name, one in screens.items()
    ]


def bars(counts: Counts, total: int | None = None) -> list[Bar]:
    """A distribution with shares of ``total``, which is the sum where it is not given."""
    whole = sum(counts.values()) if total is None else total
    most = max(counts.values(), default=0) or 1
    return [
        Bar(name=name, count=count, share=count / whole if whole else 0.0, width=100 * count / most)
        for name, count in counts.items()
    ]


def judged(group: Group) -> str:
    """What readers say of a screen, from the share of its removed pairs that they would have used."""
    rate = group.usable
    if rate.low is None or rate.high is None:
        return "too few judged"
    if rate.low > 0.5:
        return "too strict: most of what it removes is usable"
    if rate.high < 0.5:
        return "rightly removes most of it"
    return "not clear yet"


def _read(folder: Path, *, seed: int) -> _Files:
    tables = sorted((folder / PAIRS).glob("*.jsonl"))
    captions = read_optional(folder / "captions.jsonl", Source)
    return _Files(
        kept=[pair for table in tables for pair in read_optional(table, SyntheticPair)],
        rejected=read_optional(folder / "rejected_pairs.jsonl", SyntheticPair),
        slots=read_optional(folder / "rejected_slots.jsonl", SlotReject),
        captions={one.caption_id: one.text for one in captions},
        caption_rejects=read_optional(folder / "rejected_captions.jsonl", Reject),
        failures=read_optional(folder / "failures.jsonl", Failure),
        seed=seed,
    )


def _shown(pair: SyntheticPair, files: _Files, *, side: int) -> ShownPair:
    sample = pair.sample
    turns: list[SyntheticPair] = []
    if sample.turn > 1:
        turns = [
            one
            for one in (*files.kept, *files.rejected)
            if one.sample.dialogue_id == sample.dialogue_id and one.sample.turn < sample.turn
        ]
    return ShownPair(
        pair=pair,
        picture=thumbnail(sample.image, side=side),
        caption=shortened(files.captions.get(pair.origin.caption_id, ""), LONGEST_CAPTION),
        facts=", ".join(f"{name}: {fact}" for name, fact in pair.origin.facts.items()),
        earlier=tuple(sorted(turns, key=lambda one: one.sample.turn)),
        failed=tuple(
            (verdict.screen, shortened(verdict.detail, LONGEST_TEXT)) for verdict in pair.verdicts if not verdict.passed
        ),
    )


def _rejected_reasons(counts: Counts, files: _Files) -> list[ShownReason]:
    by_reason: dict[str, list[SyntheticPair]] = defaultdict(list)
    for pair in files.rejected:
        by_reason[pair.reason].append(pair)
    return [
        ShownReason(
            name=name,
            meaning=SCREENS.get(name, ""),
            count=count,
            examples=tuple(
                _shown(pair, files, side=SMALL_PIXELS)
                for pair in spread(by_reason[name], REJECTED_EXAMPLES, files.seed)
            ),
        )
        for name, count in counts.items()
    ]


def _empty_reasons(counts: Counts, files: _Files) -> list[ShownReason]:
    by_reason: dict[str, list[SlotReject]] = defaultdict(list)
    for miss in files.slots:
        by_reason[miss.reason].append(miss)
    return [
        ShownReason(
            name=name,
            meaning=EMPTY_SLOTS.get(name, ""),
            count=count,
            examples=tuple(
                {
                    "slot": miss.slot or "whole reply",
                    "detail": shortened(miss.detail, LONGEST_TEXT),
                    "caption": shortened(files.captions.get(miss.caption_id, ""), LONGEST_CAPTION),
                    "reply": shortened(miss.reply, LONGEST_REPLY),
                }
                for miss in _drawn(by_reason[name], files.seed, of=lambda one: f"{one.caption_id} {one.slot}")[
                    :REPLY_EXAMPLES
                ]
            ),
        )
        for name, count in counts.items()
    ]


def _caption_reasons(summary: SynthSummary, files: _Files) -> list[ShownReason]:
    details: dict[str, str] = {}
    for reject in files.caption_rejects:
        details.setdefault(reject.reason, without_folders(shortened(reject.detail, LONGEST_TEXT)))
    return [
        ShownReason(
            name=name, meaning=CAPTIONS.get(name, ""), count=count, examples=(details[name],) if name in details else ()
        )
        for name, count in summary.captions.rejected.items()
    ]


def _failure_reasons(summary: SynthSummary, files: _Files) -> list[ShownReason]:
    details: dict[str, str] = {}
    for failure in files.failures:
        details.setdefault(failure.reason, without_folders(shortened(failure.detail, LONGEST_TEXT)))
    return [
        ShownReason(
            name=name, meaning=FAILURES.get(name, ""), count=count, examples=(details[name],) if name in details else ()
        )
        for name, count in summary.captions.failed.items()
    ]


def _distributions(summary: SynthSummary) -> list[tuple[str, str, list[Bar]]]:
    """Heading, explanation and bars."""
    spreads, kept = summary.distributions, summary.pairs.kept
    more = spreads.different_answers - len(spreads.answers)
    tail = f"{more:,} more answers are not shown" if more > 0 else "all answers are shown"
    return [
        ("Content type", "what is asked for", bars(spreads.content_type)),
        ("Basis", "what the answer rests on", bars({BASES.get(name, name): n for name, n in spreads.basis.items()})),
        ("Modality", "as the data set states it", bars(spreads.modality)),
        ("Most frequent answers", tail, bars(spreads.answers, kept)),
    ]


def _review(folder: Path, files: _Files) -> ReviewFigures | None:
    if not (folder / FOLDER / QUEUE_FILE).is_file():
        return None
    return figures(open_review(folder, [*files.kept, *files.rejected], files.captions))


def _prompts(pairs: Iterable[SyntheticPair]) -> list[tuple[str, str, str, str]]:
    """Prompt, its SHA-256, model and the model's SHA-256, each combination once."""
    found = {
        (pair.origin.prompt, pair.origin.prompt_sha256, pair.origin.model, pair.origin.model_digest) for pair in pairs
    }
    return sorted((prompt, digest, without_folders(model), weights) for prompt, digest, model, weights in found)


def _identity(summary: SynthSummary, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What one needs to make the same pairs again."""
    made_by = summary.generator
    git = provenance.get("git")
    rows: dict[str, Any] = {
        "radvqa": provenance.get("radvqa") or "not recorded",
        "commit": _commit(git) if isinstance(git, Mapping) else "not a checkout",
        "Python": provenance.get("python") or "not recorded",
        "backend": made_by.backend,
        "model": made_by.model,
        "model SHA-256": made_by.model_digest or "not known: an endpoint does not tell its weights",
        "sampling": ", ".join(f"{name} {number:g}" for name, number in made_by.sampling.items()),
    }
    return flat(rows)


def _commit(git: Mapping[str, Any]) -> str:
    changed = f", with changes of SHA-256 {git.get('diff_sha256')}" if git.get("dirty") else ""
    return f"{git.get('commit') or 'before the first commit'}{changed}"


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


def _drawn(members: Iterable[T], seed: int, *, of: Callable[[T], str]) -> list[T]:
    """In the order of a hash of the seed and of what ``of`` names."""
    return sorted(members, key=lambda one: hashlib.sha256(f"{seed}\0{of(one)}".encode(errors="replace")).digest())


def _environment() -> Environment:
    environment = page_environment("synth/report")
    environment.filters.update(
        percent=percent,
        grouped=grouped,
        decimal=decimal,
        money=money,
        duration=duration,
        spelled=spelled,
        judged=judged,
    )
    return environment
