"""The main path of a synthesis, top to bottom: select captions, ask, draft, screen, balance, write, report.

::

    runs/replies/<backend>-<digest>.jsonl    every reply of one model and prompt, shared by recipes that ask the same
    runs/<name>_<digest>/
      captions.jsonl  rejected_captions.jsonl    what was asked about, and what was not and why
      pairs/<split>.jsonl                        kept pairs with their provenance: what the adapter `synthetic` reads
      rejected_pairs.jsonl  rejected_slots.jsonl what a screen removed; what a reply did not hold
      failures.jsonl                             captions without a reply
      summary.json  account.json                 counts and shares; tokens, time and cost
      report.html  review/  provenance.json

The files hang on the recipe, the data and the replies alone: two starts, or one that was killed and resumed, write
equal bytes, but for ``account.json``, ``provenance.json``, ``command.txt`` and the report, which tell of time, place
and starts.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from radvqa.data import DatasetAdapter, open_entry
from radvqa.data.adapters.synthetic import DECISIONS, PAIRS, SUMMARY
from radvqa.errors import DataError, RecipeError, RunError
from radvqa.llm import Failure, ModelIdentity, Reply, Request, Sampling
from radvqa.llm.account import Account
from radvqa.llm.asking import ask, outcome_of, request_key
from radvqa.llm.opening import open_text_model
from radvqa.recipe import SynthRecipe
from radvqa.recipe.sections import did_you_mean
from radvqa.records import read_records, write_json, write_records
from radvqa.run.engine import LocalEngine
from radvqa.run.folder import SynthFolder
from radvqa.run.journal import Journal
from radvqa.run.progress import Progress
from radvqa.run.provenance import collect_provenance, digest_files, process_start
from radvqa.sample import Split
from radvqa.synth import review
from radvqa.synth.assembly import Made, assemble
from radvqa.synth.captions import Selection, select, source_of
from radvqa.synth.drafts import RULES, Asked, DraftedCaption, Drafting, drafted
from radvqa.synth.pair import Source, SyntheticPair
from radvqa.synth.prompt import load_prompt
from radvqa.synth.report import write_report
from radvqa.synth.screens import SCREEN_NAMES, ScreenSettings, caption_problem
from radvqa.synth.summary import summarise
from radvqa.synth.vocabulary import vocabulary_digest
from radvqa.synth.wording import STYLES

REPLIES, FAILURES, REPORT = "replies", "failures.jsonl", "report.html"
QUEUE = f"{review.FOLDER}/{review.QUEUE_FILE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The replies to all prompts about each caption, in the order of the captions; None where there is none."""

    replies: tuple[tuple[Reply | None, ...], ...]
    failures: tuple[Failure, ...]
    identity: ModelIdentity
    account: Account
    seconds: float


def synthesise(recipe: SynthRecipe, *, command: str, progress: Progress) -> SynthFolder:
    """Do the whole recipe, or go on where an earlier start of the same recipe stopped, and return its folder.

    Raises:
        DataError: the captions cannot be read, or are not those that this folder was made from.
        ModelError: the language model cannot be used.
        RunError: a file cannot be written, or too many captions have no reply. All replies so far are kept.
    """
    process_start()
    asked = _asked(recipe)
    _require_known_names(recipe)
    folder = SynthFolder.create(recipe, command=command)
    adapter = open_entry(recipe.captions, name="captions")
    inputs = {
        **_same_captions(folder, adapter),
        **{f"prompt {one.prompt.name}": one.prompt.digest for one in asked},
        "vocabulary": vocabulary_digest(),
    }
    if folder.is_done("synth", inputs) and not _may_be_asked_again(folder):
        progress.say("nothing to do: this synthesis is finished")
        if not folder.file(REPORT).is_file():
            write_report(folder.path)
        return folder
    _make_way(folder)
    selection = _selected(recipe, adapter, progress=progress)
    sources = [source_of(one, recipe.facts) for one in selection.captions]
    answered = _answered(recipe, sources, asked, progress=progress)
    _require_replies(recipe, answered, len(sources))
    drafts = _drafted(recipe, sources, asked, answered, progress=progress)
    made = assemble(
        drafts,
        selection.captions,
        recipe=recipe,
        prompts={one.prompt.name: one.prompt.digest for one in asked},
        identity=answered.identity,
        settings=_screen_settings(recipe),
    )
    _write(folder, adapter, sources=sources, selection=selection, answered=answered, made=made)
    folder.mark_done("synth", inputs)
    page = write_report(folder.path)
    progress.say(f"report: {page}")
    return folder


def _may_be_asked_again(folder: SynthFolder) -> bool:
    """Whether a finished synthesis has captions without a reply, and no reader has looked at its pairs yet."""
    return bool(read_records(folder.file(FAILURES), Failure)) and not _is_judged(folder)


def _is_judged(folder: SynthFolder) -> bool:
    decisions = folder.file(DECISIONS)
    return decisions.is_file() and decisions.stat().st_size > 0


def _make_way(folder: SynthFolder) -> None:
    """Take the mark of an earlier synthesis with other replies, prompts or vocabulary away, and a queue of its pairs.

    Raises:
        RunError: readers have judged it: their decisions would be taken for decisions about other pairs.
    """
    if _is_judged(folder):
        raise RunError(
            "readers have judged the pairs in this folder, and other ones would be written now",
            where=str(folder.path),
            expected="the prompts and the vocabulary that those pairs were made with",
            got="a changed prompt file, or another version of the vocabulary",
            fix="move the folder away; all replies that still hold are used again",
        )
    folder.forget("synth")
    folder.file(QUEUE).unlink(missing_ok=True)


def _require_known_names(recipe: SynthRecipe) -> None:
    """Refuse screens and styles that do not exist before anything is asked."""
    for what, key, names, known in (
        ("screen", "screens.off", recipe.screens.off, SCREEN_NAMES),
        ("style", "styles", recipe.styles, STYLES),
    ):
        for name in names:
            if name not in known:
                raise RecipeError(
                    f"there is no {what} called {name!r}{did_you_mean(name, known)}",
                    where=key,
                    expected=f"one of {', '.join(known)}",
                    got=repr(name),
                    fix="correct this key of the recipe; see docs/synthesis.md",
                )


def read_pairs(folder: SynthFolder) -> tuple[list[SyntheticPair], dict[str, str]]:
    """All pairs, kept and rejected, and the caption text by caption id.

    Raises:
        RunError: the synthesis is not finished.
    """
    if "synth" not in folder.done_steps():
        raise RunError(
            "this synthesis is not finished",
            where=str(folder.path),
            fix=f"radvqa synth {folder.path / 'recipe.yaml'}",
        )
    tables = sorted((folder.path / PAIRS).glob("*.jsonl"))
    pairs = [pair for table in tables for pair in read_records(table, SyntheticPair)]
    pairs += read_records(folder.file("rejected_pairs.jsonl"), SyntheticPair)
    captions = read_records(folder.file("captions.jsonl"), Source)
    return pairs, {one.caption_id: one.text for one in captions}


def _same_captions(folder: SynthFolder, adapter: DatasetAdapter) -> dict[str, str]:
    """SHA-256 of every table of captions by its name. Raises ``DataError`` if an earlier start found others."""
    digests = digest_files(adapter.sources())
    inputs = {f"{number}:{Path(path).name}": digest for number, (path, digest) in enumerate(digests.items())}
    known = folder.inputs_of("captions")
    if not known:
        folder.mark_done("captions", inputs)
    elif known != inputs:
        changed = sorted(name for name in known.keys() | inputs.keys() if known.get(name) != inputs.get(name))
        raise DataError(
            "the captions are not those that this synthesis began with",
            where=", ".join(changed),
            expected="unchanged tables",
            got=f"{len(changed)} changed",
            fix=f"put the old tables back, or move {folder.path} away; replies to unchanged captions are reused",
        )
    return inputs


def _selected(recipe: SynthRecipe, adapter: DatasetAdapter, *, progress: Progress) -> Selection:
    splits: tuple[Split, ...] = recipe.splits
    progress.say(f"captions: reading {recipe.captions.adapter}, {', '.join(splits)}")
    selection = select(
        (item for split in splits for item in adapter.records(split)),
        shared=recipe.shared_captions,
        limit=recipe.limit,
        seed=recipe.seed,
        problem=lambda caption: caption_problem(source_of(caption, recipe.facts), _screen_settings(recipe)),
    )
    reasons = Counter(one.reason for one in selection.rejects)
    told = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())
    progress.say(f"  {len(selection.captions):,} of {selection.read:,} are asked about" + (f"; {told}" if told else ""))
    if not selection.captions:
        raise DataError(
            "there is no caption to ask about",
            where=f"{recipe.captions.adapter}, {', '.join(splits)}",
            expected="a data set with captions",
            got=told or "no caption",
            fix="name a data set with captions under `captions`, and splits that it has",
        )
    return selection


def _asked(recipe: SynthRecipe) -> tuple[Asked, ...]:
    """The prompts of the recipe; none where rules write everything."""
    if recipe.generator.backend == "rules":
        return ()
    asked = []
    slots = load_prompt(recipe.generator.prompt)
    counts = {name: count for name, count in recipe.questions.items() if name != "no" or recipe.negatives != "rule"}
    if counts:
        asked.append(Asked(prompt=slots, counts=counts))
    if recipe.dialogues:
        prompt = load_prompt(recipe.generator.dialogue_prompt)
        asked.append(Asked(prompt=prompt, counts={"open": recipe.dialogues}))
    for one in asked:
        one.prompt.asked(one.counts)
    if not asked:
        raise RecipeError(
            "the language model would not be asked anything",
            where="questions",
            expected="a slot beside no, whose questions a rule writes",
            got=", ".join(recipe.questions),
            fix="add a slot, set negatives: model, or set generator.backend: rules",
        )
    return tuple(asked)


def _answered(
    recipe: SynthRecipe, sources: Sequence[Source], asked: Sequence[Asked], *, progress: Progress
) -> Answered:
    if not asked:
        return Answered(
            replies=tuple(() for _ in sources), failures=(), identity=_rules_identity(), account=Account(), seconds=0.0
        )
    began = time.monotonic()
    with closing(open_text_model(recipe.generator, seed=recipe.seed, say=progress.say)) as model:
        identity = model.identity
        with Journal(_journal_path(recipe, identity)) as journal:
            if journal.cut_bytes:
                progress.say(f"  the last reply was cut off by a kill ({journal.cut_bytes} bytes) and is asked again")
            requests = (_request(one, source, identity) for source in sources for one in asked)
            ask(requests, model, journal, what="replies", total=len(sources) * len(asked), progress=progress)
            seconds = time.monotonic() - began
            # Only now is known whether the endpoint could hold replies to a schema.
            return _collected(recipe, sources, asked, model.identity, journal, seconds=seconds)


def _collected(
    recipe: SynthRecipe,
    sources: Sequence[Source],
    asked: Sequence[Asked],
    identity: ModelIdentity,
    journal: Journal,
    *,
    seconds: float,
) -> Answered:
    account = Account(
        price_per_million_prompt_tokens=recipe.generator.price_per_million_prompt_tokens,
        price_per_million_completion_tokens=recipe.generator.price_per_million_completion_tokens,
    )
    counted: set[str] = set()
    replies: list[tuple[Reply | None, ...]] = []
    failures: list[Failure] = []
    for source in sources:
        found: list[Reply | None] = []
        for one in asked:
            key = _request(one, source, identity).key
            outcome = outcome_of(journal[key]) if key in journal else None
            if outcome is not None and key not in counted:
                account.add(outcome)
                counted.add(key)
            if isinstance(outcome, Failure):
                # Time and attempts differ from start to start.
                key = f"{source.caption_id} {one.prompt.name}"
                failures.append(replace(outcome, key=key, attempts=0, seconds=0.0))
            found.append(outcome if isinstance(outcome, Reply) else None)
        replies.append(tuple(found))
    return Answered(
        replies=tuple(replies), failures=tuple(failures), identity=identity, account=account, seconds=seconds
    )


def _request(asked: Asked, source: Source, identity: ModelIdentity) -> Request:
    request = Request(
        key="", messages=asked.prompt.messages(source, asked.counts), schema=asked.prompt.schema(asked.counts)
    )
    return replace(request, key=request_key(request, identity))


def _journal_path(recipe: SynthRecipe, identity: ModelIdentity) -> Path:
    """One journal for each model and way of sampling, so that other recipes find the replies again."""
    content = [identity.name, identity.digest, asdict(identity.sampling)]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return recipe.output / REPLIES / f"{identity.backend}-{digest}.jsonl"


def _require_replies(recipe: SynthRecipe, answered: Answered, captions: int) -> None:
    failed = len(answered.failures)
    if failed > recipe.most_failed * captions * max(1, len(answered.replies[0])):
        reasons = Counter(one.reason for one in answered.failures)
        raise RunError(
            f"{failed:,} requests about {captions:,} captions have no reply",
            where="; ".join(f"{one.key}: {one.detail}" for one in answered.failures[:3]),
            expected=f"at most {recipe.most_failed:.0%}, as most_failed says",
            got=", ".join(f"{number:,} {reason}" for reason, number in reasons.items()),
            fix="mend the endpoint and start again, only these are asked; with a larger most_failed they are left out",
        )


def _drafted(
    recipe: SynthRecipe, sources: Sequence[Source], asked: Sequence[Asked], answered: Answered, *, progress: Progress
) -> list[DraftedCaption]:
    drafting = Drafting(
        asked=tuple(asked),
        rule_counts=recipe.questions if not asked else {},
        styles=recipe.styles,
        screens=_screen_settings(recipe),
        seed=recipe.seed,
        reword_yes=recipe.negatives == "rule",
    )
    items = zip(sources, answered.replies, strict=True)
    found: list[DraftedCaption] = []
    with progress.track("drafts and screens", len(sources), unit="captions") as tick:
        for one in LocalEngine().map(partial(drafted, drafting=drafting), items, group=64):
            found.append(one)
            tick(1)
    return found


def _screen_settings(recipe: SynthRecipe) -> ScreenSettings:
    screens = recipe.screens
    return ScreenSettings(
        off=screens.off,
        shortest_caption_words=screens.shortest_caption_words,
        longest_answer_words=screens.longest_answer_words,
        near_duplicate=screens.near_duplicate,
        embeddings=screens.embeddings,
        yes_share=screens.yes_share,
        yes_tolerance=screens.yes_tolerance,
        seed=recipe.seed,
    )


def _rules_identity() -> ModelIdentity:
    return ModelIdentity(backend="rules", name=RULES, digest=vocabulary_digest(), sampling=Sampling())


def _write(
    folder: SynthFolder,
    adapter: DatasetAdapter,
    *,
    sources: Sequence[Source],
    selection: Selection,
    answered: Answered,
    made: Made,
) -> None:
    recipe = folder.recipe
    write_records(folder.file("captions.jsonl"), sources)
    write_records(folder.file("rejected_captions.jsonl"), selection.rejects)
    write_records(folder.file(FAILURES), answered.failures)
    for split in recipe.splits:
        pairs = [one for one in made.kept if one.sample.split == split]
        write_records(folder.file(f"{PAIRS}/{split}.jsonl"), pairs)
    write_records(folder.file("rejected_pairs.jsonl"), made.rejected)
    write_records(folder.file("rejected_slots.jsonl"), made.rejected_slots)
    source = {
        "adapter": recipe.captions.adapter,
        "licence": adapter.licence,
        "citation": adapter.citation,
        "homepage": adapter.homepage,
    }
    summary = summarise(made, selection, answered.failures, answered.identity, recipe=recipe, source=source)
    write_json(folder.file(SUMMARY), summary)
    write_json(folder.file("account.json"), answered.account.as_dict(wall_seconds=answered.seconds))
    extra = {"seed": recipe.seed, "model": asdict(answered.identity)}
    write_json(folder.file("provenance.json"), collect_provenance(files=adapter.sources(), extra=extra))
