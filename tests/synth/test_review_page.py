"""The page itself: what holds without a browser, and one reading in Chromium where it is installed."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from importlib import resources

import pytest
from PIL import Image
from review_pairs import captions_of, made_pairs

from radvqa.records import write_json, write_records
from radvqa.synth.review.decisions import FAULTS, DecisionFile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FILES = {
    name: resources.files("radvqa.synth.review").joinpath(name).read_text(encoding="utf-8")
    for name in ("page.html", "review.css", "review.js")
}


def test_the_page_keeps_to_its_policy():
    page = FILES["page.html"]
    assert re.findall(r"<script[^>]*>", page) == ['<script type="module" src="/review.js">']
    assert "<style" not in page
    assert not re.search(r"\s(style|on\w+)=", page)
    for name, text in FILES.items():
        assert not re.search(r"https?:|//\w+\.\w|url\(|@import", text), name
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|\bFunction\(", FILES["review.js"]
    )


def test_script_and_page_name_the_same_things():
    ids = re.findall(r'\bid="([^"]+)"', FILES["page.html"])
    assert len(set(ids)) == len(ids)
    named = set(re.findall(r'(?:\$|click)\("([a-z-]+)"', FILES["review.js"]))
    assert named - set(ids) == set()
    for label in re.findall(r'\b(?:for|aria-controls|aria-labelledby)="([^"]+)"', FILES["page.html"]):
        assert label in ids
    reasons = FILES["review.js"].partition("const REASONS = {")[2].partition("};")[0]
    assert tuple(re.findall(r"^  (\w+):", reasons, re.MULTILINE)) == FAULTS


def test_every_control_has_a_name():
    page = FILES["page.html"]
    labelled = set(re.findall(r'<label for="([^"]+)"', page))
    assert set(re.findall(r'<(?:input|textarea) id="([^"]+)"', page)) <= labelled
    for button in re.findall(r"<button[^>]*>(.*?)</button>", page, re.DOTALL):
        assert re.sub(r"<kbd>.*?</kbd>|<[^>]+>", "", button).strip()
    assert "Research tool, not for clinical use" in page


class Served:
    """The review as a process of its own, so that it can be killed and started again on the same port."""

    def __init__(self, folder, port=0):
        script = textwrap.dedent("""
            import json, sys
            from pathlib import Path
            from radvqa.records import read_records
            from radvqa.synth.pair import SyntheticPair
            from radvqa.synth.review import open_review
            from radvqa.synth.review.server import create_app, serve
            folder = Path(sys.argv[1])
            pairs = read_records(folder / "pairs.jsonl", SyntheticPair)
            review = open_review(folder, pairs, json.loads((folder / "captions.json").read_text()), size=12)
            serve(create_app(review), host="127.0.0.1", port=int(sys.argv[2]), say=lambda text: print(text, flush=True))
        """)
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(folder), str(port)], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        self.address = self.process.stdout.readline().removeprefix("review at ").strip()
        self.port = int(self.address.rpartition(":")[2].strip("/"))

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def browser_page():
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(15_000)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda said: page.problems.append(said.text) if "Policy" in said.text else None)
        yield page
        browser.close()


@pytest.fixture
def folder(tmp_path):
    Image.new("L", (80, 60), 90).save(tmp_path / "image.png")
    pairs = made_pairs(kept=20, removed=10, image=tmp_path / "image.png")
    write_records(tmp_path / "pairs.jsonl", pairs)
    write_json(tmp_path / "captions.json", captions_of(pairs))
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_reading_with_the_keyboard(browser_page, folder):
    # The page's policy forbids Playwright's own functions of text, so properties are asked for by name.
    from playwright.sync_api import expect as is_so

    page, stored = browser_page, DecisionFile(folder / "review" / "decisions.jsonl")

    def press(*keys):
        for key in keys:
            page.keyboard.press(key)

    def expect(selector, text):
        is_so(page.locator(selector)).to_contain_text(text)

    def decisions():
        return [(one.verdict, one.reasons, one.note, one.answer) for one in stored.read().decisions]

    served = Served(folder)
    try:
        page.goto(served.address)
        page.fill("#reader", "Not A Name")
        press("Enter")
        expect("#start-error", "name")
        page.fill("#reader", "Ana")
        press("Enter")
        expect("#progress-text", "0 of 12 judged")
        is_so(page.locator("#image")).to_have_js_property("naturalWidth", 80)

        press("c")
        assert page.is_hidden("#caption")
        press("a")
        expect("#progress-text", "1 of 12 judged")
        press("k")
        assert page.is_visible("#caption")  # judged pairs show it
        press("c", "n")

        press("e")
        page.keyboard.type("spleen, not a key: a r u")
        press("Enter")
        expect("#place", "Pair 3")
        press("r", "Enter")
        expect("#reject-error", "at least one")
        press("2", "3", "3", "8", "Enter")
        expect("#reject-error", "note")
        page.keyboard.type("all dark")
        press("Enter")
        expect("#place", "Pair 4")
        press("u")
        expect("#place", "Pair 3")
        expect("#progress-text", "2 of 12 judged")
        press("r", "1", "Escape")
        assert page.is_hidden("#reject")
        press("z")
        assert page.get_attribute("#zoom", "aria-pressed") == "true"
        assert [one[0] for one in decisions()] == ["accept", "edit", "reject", "withdraw"]
        assert decisions()[1][3] == "spleen, not a key: a r u"
        assert decisions()[2][1:3] == (("not_visible", "other"), "all dark")

        served.kill()
        press("a", "a")
        expect("#banner-text", "2 decisions are not saved yet")
        expect("#progress-text", "4 of 12 judged, 2 not saved")
        served = Served(folder, served.port)
        page.click("#banner-retry")
        page.wait_for_selector("#banner", state="hidden")
        assert [one[0] for one in decisions()[4:]] == ["accept", "accept"]

        served.kill()
        press("a")
        expect("#progress-text", "1 not saved")
        page.on("dialog", lambda dialog: dialog.accept())
        served = Served(folder, served.port)
        page.reload()
        page.fill("#reader", "ana")
        press("Enter")
        expect("#progress-text", "5 of 12 judged")
        is_so(page.locator("#progress-text")).not_to_contain_text("saved")
        assert len(decisions()) == 7
        page.reload()  # what was saved is not sent again
        page.fill("#reader", "ana")
        press("Enter")
        expect("#progress-text", "5 of 12 judged")
        press("a")
        expect("#progress-text", "6 of 12 judged")
        is_so(page.locator("#progress-text")).not_to_contain_text("saved")
        assert len(decisions()) == 8

        page.set_viewport_size({"width": 360, "height": 700})
        is_so(page.locator("html")).to_have_js_property("scrollWidth", 360)
        assert page.problems == []
    finally:
        served.kill()
