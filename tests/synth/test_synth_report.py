"""The page of a synthesis: everything on it, nothing of the machine, no foreign text as markup, small and quick."""

import hashlib
import json
import random
import re
import shutil
import time
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from radvqa.errors import DataError, RunError
from radvqa.llm import Failure, FailureReason, ModelIdentity, Reply, Sampling
from radvqa.llm.account import Account
from radvqa.recipe import parse_synth_recipe
from radvqa.records import read_records, write_json, write_records, write_text
from radvqa.sample import CaptionedImage, Reject, VqaSample
from radvqa.synth.assembly import Made
from radvqa.synth.captions import Selection
from radvqa.synth.drafts import SlotReject
from radvqa.synth.pair import SLOTS, Origin, Source, SyntheticPair, Verdict
from radvqa.synth.parse import Reason
from radvqa.synth.report import bars, judged, spread, write_report
from radvqa.synth.report.contents import flat, without_folders
from radvqa.synth.report.wording import EMPTY_SLOTS, FAILURES, SCREENS, duration
from radvqa.synth.review import open_review
from radvqa.synth.review.decisions import Decision
from radvqa.synth.review.figures import Group, Rate
from radvqa.synth.screens import SCREEN_NAMES
from radvqa.synth.summary import summarise
from radvqa.synth.wording import STYLES

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(2)>'
CAPTIONS = (
    "Axial CT of the chest shows a right upper lobe mass with pleural effusion.",
    "Coronal T1 MRI of the knee with a torn anterior cruciate ligament.",
    "Axial contrast CT of the abdomen. There is no free air. Multiple liver metastases.",
    "Sagittal T2 MRI shows severe stenosis of the lumbar spinal canal.",
)
ASKED = {
    "modality": ("Which imaging modality is shown?", "CT"),
    "plane": ("In which plane is this image?", "axial"),
    "organ": ("Which organ is shown?", "liver"),
    "finding": ("What abnormality is seen?", "right upper lobe mass"),
    "location": ("Where is the mass?", "right upper lobe"),
    "severity": ("How severe is the stenosis?", "severe"),
    "yes": ("Is there a pleural effusion?", "yes"),
    "no": ("Is there a rib fracture?", "no"),
    "open": ("What surrounds the mass?", "pleural effusion"),
}
SCREENS_USED = ("needs_history", "answer_in_question", "answer_not_licensed", "near_duplicate")
RECIPE = {
    "name": "demo-synthesis",
    "seed": 17,
    "output": "/home/somebody/secret place/runs",
    "captions": {"adapter": "medpix", "root": "/home/somebody/data/MedPix-2-0"},
    "generator": {"backend": "endpoint", "model": "small-writer", "url": "http://localhost:8000/v1"},
    "screens": {"off": ["long_answer"], "yes_share": 0.5},
}


def draw_picture(path: Path, seed: int) -> Path:
    choose = random.Random(seed)
    picture = Image.new("L", (320, 260), 12)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((25, 20, 295, 240), fill=60 + choose.randrange(60), outline=200, width=4)
    for _ in range(8):
        x, y, r = choose.randrange(60, 250), choose.randrange(50, 200), choose.randrange(6, 38)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=choose.randrange(30, 235))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def make_pair(number: int, slot: str, caption: str, image: Path, **changed: object) -> SyntheticPair:
    question, answer = ASKED[slot]
    values = {
        "question": question,
        "answer": answer,
        "reason": "",
        "detail": "",
        "reply": '{"finding": "mass"}',
        "modality": "CT" if "CT" in caption else "MR",
        "turn": 0,
    }
    values |= changed
    verdicts = tuple(
        Verdict(screen=name, passed=name != values["reason"], detail=str(values["detail"]) * (name == values["reason"]))
        for name in SCREENS_USED
    )
    return SyntheticPair(
        sample=VqaSample(
            sample_id=f"synth-c{number}-{slot}{values['turn'] or ''}",
            image_id=f"image{number}",
            image=image,
            question=str(values["question"]),
            answers=(str(values["answer"]),),
            answer_type="closed" if slot in ("yes", "no") else "open",
            answer_type_stated=False,
            group_id=f"case{number}",
            split="train",
            dialogue_id=f"synth-c{number}-d1" if values["turn"] else "",
            turn=int(str(values["turn"])),
            synthetic=True,
            tags={
                "modality": str(values["modality"]),
                "content_type": "presence" if slot in ("yes", "no") else slot,
            },
        ),
        slot=slot,
        style="plain",
        basis={"yes": "caption", "no": "absent", "modality": "fact"}.get(slot, "model"),
        subject="",
        origin=Origin(
            caption_id=f"c{number}",
            caption_sha256=hashlib.sha256(caption.encode()).hexdigest(),
            facts={"modality": "CT"} if "CT" in caption else {},
            prompt="rules@1" if slot == "no" else "slots@1",
            prompt_sha256=("b" if slot == "no" else "a") * 64,
            backend="rules" if slot == "no" else "endpoint",
            model="rules@1" if slot == "no" else "small-writer",
            model_digest="c" * 64 if slot == "no" else "",
            sampling={} if slot == "no" else {"temperature": 0.0},
            reply="" if slot == "no" else str(values["reply"]),
        ),
        verdicts=verdicts,
        reason=str(values["reason"]),
    )


def summary_of(made: Made, captions: list[Source], *, failures: list[Failure], lost: list[Reject]) -> dict[str, object]:
    asked = tuple(
        CaptionedImage(
            sample_id=one.caption_id, image_id="", image=Path(), text=one.text, group_id=one.caption_id, split="train"
        )
        for one in captions
    )
    return summarise(
        made,
        Selection(captions=asked, rejects=tuple(lost), read=len(asked) + len(lost) + 7, undrawn=7),
        failures,
        ModelIdentity(
            backend="endpoint",
            name="small-writer",
            digest="",
            sampling=Sampling(seed=17),
            facts={"server": "vllm", "loaded_from": "/srv/models/secret"},
        ),
        recipe=parse_synth_recipe(RECIPE, where="test"),
        source={"adapter": "medpix", "licence": "none stated", "citation": "Siragusa et al. 2025", "homepage": ""},
    )


def make_folder(
    folder: Path, pictures: list[Path], *, captions: list[str] | None = None, hostile: bool = False
) -> Path:
    """A folder as a synthesis leaves it; every fifth pair is rejected."""
    texts = captions or [f"{CAPTIONS[place % 4]} Case {place}." for place in range(len(pictures))]
    bad = HOSTILE if hostile else ""
    choose = random.Random(1)
    kept, rejected, misses = [], [], []
    for number, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        for place, slot in enumerate(ASKED):
            changed = {
                "question": f"{ASKED[slot][0]}{bad}",
                "answer": f"{ASKED[slot][1]}{bad if slot not in ('yes', 'no') else ''}",
            }
            if hostile:
                changed["modality"] = HOSTILE
            if (number + place) % 5 == 0:
                changed |= {"reason": SCREENS_USED[choose.randrange(4)], "detail": f"the caption does not say it{bad}"}
            pair = make_pair(number, slot, text, picture, **changed)
            (rejected if pair.reason else kept).append(pair)
        if number % 3 == 0:
            reply = f'{{"finding": "not stated"}}{bad}'
            misses.append(
                SlotReject(
                    caption_id=f"c{number}",
                    prompt="slots@1",
                    slot="finding",
                    reason="not_stated",
                    detail=f"finding is 'not stated'{bad}",
                    reply=reply,
                )
            )
    for turn in (1, 2):
        kept.append(make_pair(0, "open", texts[0], pictures[0], turn=turn, question=f"Question of turn {turn}?{bad}"))
    misses.append(
        SlotReject(
            caption_id="c1",
            prompt="slots@1",
            slot="",
            reason="no_json",
            detail="no JSON",
            reply=f"Sure! {bad}" + "x" * 9000,
        )
    )
    failures = [
        Failure(
            key="c9 slots@1",
            reason="timeout",
            detail=f"no reply from /srv/models/secret/writer.gguf{bad}",
            attempts=5,
            seconds=1.0,
        )
    ]
    lost = [
        Reject(sample_id="c99", reason="shared_caption", where="image 9", detail=f"3 images share this caption{bad}")
    ]
    sources = [Source(caption_id=f"c{number}", text=f"{text}{bad}", facts={}) for number, text in enumerate(texts)]
    account = Account(
        (
            Reply(key=str(n), text="x", finished=True, prompt_tokens=400, completion_tokens=90, seconds=2 + n % 3)
            for n in range(len(texts))
        ),
        price_per_million_prompt_tokens=0.5,
        price_per_million_completion_tokens=1.5,
    )
    write_records(folder / "pairs" / "train.jsonl", kept)
    write_records(folder / "rejected_pairs.jsonl", rejected)
    write_records(folder / "rejected_slots.jsonl", misses)
    write_records(folder / "captions.jsonl", sources)
    write_records(folder / "rejected_captions.jsonl", lost)
    write_records(folder / "failures.jsonl", failures)
    made = Made(kept=tuple(kept), rejected=tuple(rejected), rejected_slots=tuple(misses), negatives=len(pictures))
    write_json(folder / "summary.json", summary_of(made, sources, failures=failures, lost=lost))
    write_json(folder / "account.json", account.as_dict(wall_seconds=75.0))
    write_json(
        folder / "provenance.json",
        {
            "radvqa": "0.1",
            "python": "3.11.9",
            "git": {"commit": "f" * 40, "dirty": False, "diff_sha256": None},
            "files": {"/home/somebody/my data/captions.json": "d" * 64},
            "argv": ["/opt/venv/bin/radvqa", "synth", "/home/somebody/a.yaml"],
        },
    )
    write_text(folder / "recipe.yaml", "# radvqa 0.1\n" + yaml.safe_dump(RECIPE, sort_keys=False))
    write_text(
        folder / "command.txt",
        "2026-11-24T22:00:00Z radvqa synth /home/somebody/a.yaml --set output='/home/somebody/secret place'\n",
    )
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [draw_picture(folder / f"image{number}.png", number) for number in range(8)]


@pytest.fixture
def folder(tmp_path: Path, pictures: list[Path]) -> Path:
    return make_folder(tmp_path / "demo-synthesis_1a2b3c4d", pictures)


class Markup(HTMLParser):
    """Start tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(" ".join(data.split()))

    def classes(self, name: str) -> int:
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.tags)


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def test_the_page_tells_the_whole_synthesis_in_its_order(folder: Path) -> None:
    page = page_of(folder)
    markup = Markup(page)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    order = re.findall(r'<section id="(\w+)"', page)
    assert order == ["kept", "screens", "rejected", "slots", "spread", "floor", "captions", "cost", "review", "again"]
    headline = dict(re.findall(r'<dt>([^<]+)</dt><dd><span class="big">([^<]+)</span>', page))
    assert headline == {
        "Captions asked": "8",
        "Pairs kept": str(summary["pairs"]["kept"]),
        "Yield": f"{100 * summary['pairs']['kept_share']:.1f} %",
        "Yes share": f"{100 * summary['yes_no']['kept']['yes_share']:.1f} %",
        "Question-only floor": f"{100 * summary['floor']['exact_match']:.1f} %",
        "Cost": "0.0027",
        "Time": "75 s",
    }
    assert "not by radiologists" in page and "Not for clinical use" in page
    assert markup.classes("card") == 12
    assert any(text.startswith(CAPTIONS[0]) for text in markup.texts)
    for known in (
        "…/MedPix-2-0",
        "slots@1",
        "a" * 64,
        "f" * 40,
        "3.11.9",
        "url: http://localhost:8000/v1",
        "long answer",
    ):
        assert known in page, known


def test_rejected_pairs_have_up_to_four_examples_with_the_detail(folder: Path) -> None:
    page = page_of(folder)
    rejected = page[page.index('id="rejected"') : page.index('id="slots"')]
    reasons = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["reasons"]
    for block in rejected.split("<details")[1:]:
        name, count = re.search(r"<summary>([\w ]+) <span[^>]*>(\d+) pair", block).groups()
        shown = block.count("<article")
        assert reasons.pop(name.replace(" ", "_")) == int(count)
        assert shown == min(4, int(count))
        assert block.count("the caption does not say it") == shown == block.count("<img")
    assert not reasons


def test_every_name_has_a_sentence() -> None:
    assert set(SCREENS) == set(SCREEN_NAMES)
    assert set(EMPTY_SLOTS) == set(get_args(Reason))
    assert set(FAILURES) == set(get_args(FailureReason))
    assert all(one.startswith("Removes ") and one.endswith(".") for one in SCREENS.values())


def test_foreign_texts_are_never_markup(tmp_path: Path, pictures: list[Path]) -> None:
    page = page_of(make_folder(tmp_path / "hostile", pictures, hostile=True))
    markup = Markup(page)
    assert "&lt;script&gt;alert" in page
    assert not {"script", "iframe", "object", "embed", "link", "base", "form", "svg"} & {tag for tag, _ in markup.tags}
    attributes = [(name, value) for _, found in markup.tags for name, value in found.items()]
    assert not [name for name, _ in attributes if name.startswith("on")]
    addresses = [value for name, value in attributes if name in ("src", "href", "action", "srcset")]
    assert addresses and all(value.startswith(("data:image/", "#")) for value in addresses)
    # Each of the places a foreign text can stand in was indeed put to the test.
    for part, least in (("kept", 30), ("rejected", 30), ("slots", 6), ("captions", 2), ("spread", 1)):
        section = page[page.index(f'<section id="{part}"') :]
        assert section[: section.index("</section>")].count("&lt;script&gt;") >= least, part


def test_no_folder_of_this_machine_is_told(folder: Path, pictures: list[Path]) -> None:
    pictures[0].rename(pictures[0].with_name("moved.png"))
    try:
        page = page_of(folder)
    finally:
        pictures[0].with_name("moved.png").rename(pictures[0])
    for secret in ("/home/", "somebody", "/srv", "/opt", str(folder.parent), str(pictures[0].parent), "my data"):
        assert secret not in page, secret
    assert "…/writer.gguf" in page
    assert "The picture image0.png cannot be shown" in page


def test_a_folder_of_nothing_but_a_summary_still_has_its_page(folder: Path) -> None:
    for entry in list(folder.iterdir()):
        if entry.name != "summary.json":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    page = page_of(folder)
    for note in ("no tables of pairs", "none of these pairs", "no example", "no account", "no recipe", "No provenance"):
        assert note in page, note


@pytest.mark.parametrize(("text", "message"), [(None, "no summary"), ("{}", "damaged"), ("not json", "damaged")])
def test_a_summary_that_cannot_be_read_is_named(folder: Path, text: str | None, message: str) -> None:
    (folder / "summary.json").unlink()
    if text is not None:
        write_text(folder / "summary.json", text)
    with pytest.raises(RunError, match=message) as error:
        write_report(folder)
    assert error.value.where is not None and "summary.json" in error.value.where
    assert error.value.fix


def test_a_damaged_line_is_named(folder: Path) -> None:
    with (folder / "rejected_pairs.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"half": ')
    with pytest.raises(DataError, match=r"rejected_pairs\.jsonl, line"):
        write_report(folder)


def test_the_same_files_give_the_same_page(folder: Path) -> None:
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_a_page_of_five_thousand_pairs_is_small_and_quick(tmp_path: Path, pictures: list[Path]) -> None:
    folder = make_folder(tmp_path / "large", pictures * 69)
    began = time.monotonic()
    page = write_report(folder)
    assert time.monotonic() - began < 10
    assert page.stat().st_size < 1_500_000


def test_a_long_reply_is_cut(folder: Path) -> None:
    assert "x" * 500 in page_of(folder)
    assert "x" * 700 not in page_of(folder)


def test_a_later_turn_is_shown_with_the_turns_before_it(folder: Path) -> None:
    pairs = (folder / "pairs" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    write_text(folder / "pairs" / "train.jsonl", "\n".join(pairs[-2:]) + "\n")
    page = page_of(folder)
    assert page.count("Turn 1: Question of turn 1? – pleural effusion") == 1


def test_rules_are_not_said_to_be_a_model(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["generator"] |= {"backend": "rules", "model": "rules@1"}
    write_json(folder / "summary.json", summary)
    page = page_of(folder)
    assert "without a language model" in page and "written by a program, not by radiologists" in page
    assert "no model was asked" in page


def test_the_page_says_how_to_start_a_review_and_begins_none(folder: Path) -> None:
    assert f"radvqa synth review {folder.name}" in page_of(folder)
    assert not (folder / "review").exists()


def test_the_page_tells_what_readers_found(folder: Path) -> None:
    kept = [json.loads(line) for line in (folder / "pairs" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = read_records(folder / "pairs" / "train.jsonl", SyntheticPair)
    pairs += read_records(folder / "rejected_pairs.jsonl", SyntheticPair)
    captions = {one.caption_id: one.text for one in read_records(folder / "captions.jsonl", Source)}
    review = open_review(folder, pairs, captions, size=40)
    assert "Nobody has judged" in page_of(folder)
    names = {pair["sample"]["sample_id"] for pair in kept}
    for place, item in enumerate(review.queue.items):
        for reader in ("ada", "bob"):
            good = item.sample_id not in names or place % 4
            review.decisions.append(
                Decision(
                    sample_id=item.sample_id,
                    reader=reader,
                    verdict="accept" if good else "reject",
                    reasons=() if good else ("not_visible",),
                    seconds=4.0,
                )
            )
    page = page_of(folder)
    assert "40 of 40 drawn pairs were judged by 2 readers" in page
    assert "not visible (" in page
    assert "too strict" in page.split("Is a screen too strict?")[1]
    assert "ada and bob" in page and "Nobody has judged" not in page


def test_what_readers_say_of_a_screen_needs_an_interval_beside_one_half() -> None:
    def group(low: float | None, high: float | None) -> Group:
        rate = Rate(value=0.5, low=low, high=high, decided=9, hits=4, covered=1.0)
        return Group(name="measurement", size=9, drawn=9, accepted=rate, usable=rate)

    assert judged(group(0.6, 0.9)).startswith("too strict")
    assert judged(group(0.1, 0.4)).startswith("rightly")
    assert judged(group(0.4, 0.6)) == "not clear yet"
    assert judged(group(None, None)) == "too few judged"


@given(
    counts=st.dictionaries(st.sampled_from(SLOTS), st.integers(0, 6)), wanted=st.integers(0, 30), seed=st.integers(0, 9)
)
def test_examples_take_turns_over_slots(counts: dict[str, int], wanted: int, seed: int) -> None:
    pairs = [
        replace(pair, sample=replace(pair.sample, sample_id=f"{slot}-{number}"))
        for slot, count in counts.items()
        for number in range(count)
        for pair in [make_pair(number, slot, CAPTIONS[0], Path("a.png"))]
    ]
    chosen = spread(pairs, wanted, seed)
    assert len(chosen) == min(wanted, len(pairs)) == len({one.sample.sample_id for one in chosen})
    assert chosen == spread(pairs[::-1], wanted, seed)
    taken = Counter(one.slot for one in chosen)
    full = [slot for slot, count in counts.items() if taken[slot] < count]
    if full:
        least = min(taken[slot] for slot in full)
        assert all(number <= least + 1 for number in taken.values())


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("radvqa synth /home/me/a.yaml --set output=/mnt/b/runs", "radvqa synth …/a.yaml --set output=…/runs"),
        ("--set output='/home/my name/runs'", "--set output='…/runs'"),
        ("'output=/home/my name/runs'", "'output=…/runs'"),
        ("root: /data", "root: …/data"),
        ("where:/data/x", "where:…/x"),
        ("file:///home/me/x.png", "…/x.png"),
        ("http://localhost:8000/v1 and https://a.b/c/d", "http://localhost:8000/v1 and https://a.b/c/d"),
        ("T1/T2, and/or, 3 / 4, data/slake, ./here/x, ~/x", "T1/T2, and/or, 3 / 4, data/slake, ./here/x, ~/x"),
    ],
)
def test_absolute_paths_are_cut_and_nothing_else(text: str, cut: str) -> None:
    assert without_folders(text) == cut
    assert without_folders(cut) == cut


PART = st.text("abcXYZ019-_. ", min_size=1, max_size=8).filter(lambda part: part.strip(". ") == part)


@given(parts=st.lists(PART, min_size=2, max_size=5), before=st.sampled_from(["", "key: '", '"a=']))
def test_no_absolute_path_survives(parts: list[str], before: str) -> None:
    path = "/" + "/".join(parts)
    text = (
        f"{before}{path}{before[-1:] if before[-1:] != '=' else before[0]}" if before != "key: '" else f"key: '{path}'"
    )
    rows = dict(flat({"a": {"b": path}, path: [text]}))
    assert rows["a.b"] == f"…/{parts[-1]}"
    assert "/".join(parts[:2]) not in "".join((*rows, *rows.values()))


def test_times_are_read_at_a_glance() -> None:
    told = [duration(seconds) for seconds in (None, 0.41, 42.3, 720, 3900 * 2)]
    assert told == ["not known", "0.4 s", "42 s", "12 min", "2 h 10 min"]


def test_bars_are_relative_to_the_longest() -> None:
    assert [(one.share, one.width) for one in bars({"a": 30, "b": 10})] == [(0.75, 100.0), (0.25, 100 / 3)]
    assert bars({}) == []
    assert bars({"a": 0})[0].width == 0


def test_the_documentation_names_every_screen_slot_style_and_file(folder: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "synthesis.md").read_text(encoding="utf-8")
    write_report(folder)
    files = [entry.name for entry in folder.iterdir() if entry.is_file()]
    missing = [name for name in (*SCREEN_NAMES, *SLOTS, *STYLES, *files) if f"`{name}`" not in text]
    assert not missing


def test_recipes_of_the_documentation_are_valid() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "synthesis.md").read_text(encoding="utf-8")
    found = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    recipes = [values for values in found if "generator" in values]
    assert len(recipes) == 5
    for values in recipes:
        parse_synth_recipe({"name": "x", "captions": {"adapter": "medpix", "root": "data"}} | values, where="docs")
