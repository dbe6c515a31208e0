"""The pages for people: lists that work without script, all states, hostile texts, 500 cases."""

import json
import math
import re
import time
from html.parser import HTMLParser
from importlib import resources

import pytest

from radvqa.explain.failures import SIGNATURES, find_failures, value_of
from radvqa.serve.listing import SORTS, Wanted, times


class Seen(HTMLParser):
    """Tags with their attributes, and the texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def lines_of(page, series=0):
    return page.app.state.cases.series[series].listing().lines


def shown_keys(page, query):
    answer = page.get("/", params=query)
    assert answer.status_code == 200
    return [link.removeprefix("/case/").partition("?")[0] for link in case_links(answer.text)]


def case_links(text):
    links = [one.get("href", "") for one in Seen(text).all("a")]
    return [link for link in links if link.startswith("/case/")]


def link_of(page, address, name):
    """Where the link of that id leads on a page; None if there is none."""
    answer = page.get(address)
    assert answer.status_code == 200
    return next((one["href"] for one in Seen(answer.text).all("a") if one.get("id") == name), None)


def every_page(page, key):
    case = f"s0/{key}"
    return ["/", "/?q=zzz", "/failures", f"/case/{case}", f"/compare?a={case}&b={case}", "/help", "/nothing"]


def test_every_page_says_what_it_is(page, key):
    for path in every_page(page, key):
        answer = page.get(path)
        seen = Seen(answer.text)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "Research only. Never for clinical use." in answer.text
        assert "not why it answered so" in answer.text
        assert [one["id"] for one in seen.all("main")] == ["main"]
        assert len(seen.all("h1")) == 1, path
        assert seen.all("html") == [{"lang": "en"}]
        ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
        assert len(ids) == len(set(ids))


def test_pages_keep_to_their_policy(page, key):
    for path in every_page(page, key):
        text = page.get(path).text
        seen = Seen(text)
        assert not seen.all("style")
        assert all(one.get("src", "").startswith("/static/") for one in seen.all("script"))
        assert not [name for _, attributes in seen.tags for name in attributes if name == "style" or name[:2] == "on"]
        assert not re.search(r"https?://|url\(|@import", text)


def test_every_control_of_a_form_has_a_label(page):
    for path in ("/", "/failures"):
        seen = Seen(page.get(path).text)
        labelled = {one["for"] for one in seen.all("label")}
        assert {one["id"] for tag in ("select", "input") for one in seen.all(tag)} == labelled


def test_filters_without_script(page):
    everything = [f"s0/{line.key}" for line in lines_of(page)]
    first = shown_keys(page, {"series": "s0"})
    assert first == everything
    assert len(shown_keys(page, {})) == 19
    assert set(shown_keys(page, {"series": "s1"})) == {f"s1/{line.key}" for line in lines_of(page, 1)}
    expected = [f"s0/{line.key}" for line in lines_of(page) if not line.correct]
    assert shown_keys(page, {"series": "s0", "correct": "wrong"}) == expected
    for group in ("modality", "organ", "content_type"):
        value = value_of(lines_of(page)[0], group)
        expected = [f"s0/{line.key}" for line in lines_of(page) if value_of(line, group) == value]
        assert shown_keys(page, {"series": "s0", group: value}) == expected
        assert 0 < len(expected) < 12
    failures = find_failures(lines_of(page))
    for signature in {one.signature for one in failures}:
        expected = {f"s0/{one.key}" for one in failures if one.signature == signature}
        assert set(shown_keys(page, {"series": "s0", "signature": signature})) == expected
    assert set(shown_keys(page, {"series": "s0", "signature": "any"})) == {f"s0/{one.key}" for one in failures}
    found = shown_keys(page, {"series": "s0", "q": " MODALITY was "})
    assert found == [f"s0/{line.key}" for line in lines_of(page) if "modality was" in line.question]
    assert shown_keys(page, {"q": lines_of(page)[3].sample_id, "series": "s0"}) == [f"s0/{lines_of(page)[3].key}"]


def test_the_form_keeps_what_was_chosen(page):
    seen = Seen(page.get("/", params={"correct": "wrong", "q": "heart", "sort": "unsure"}).text)
    assert [one["value"] for one in seen.all("option") if "selected" in one] == ["wrong", "unsure"]
    assert [one["value"] for one in seen.all("input")] == ["heart"]


@pytest.mark.parametrize("sort", SORTS)
def test_orders(page, sort):
    lines = {f"s0/{line.key}": line for line in lines_of(page)}
    shown = [lines[key] for key in shown_keys(page, {"series": "s0", "sort": sort})]
    assert len(shown) == 12
    keys = {
        "confident": [-line.confidence for line in shown],
        "unsure": [line.confidence for line in shown],
        "blind": [line.reliance for line in shown],
        "question": [line.question.casefold() for line in shown],
        "order": [list(lines).index(f"s0/{line.key}") for line in shown],
    }
    if sort in keys:
        assert keys[sort] == sorted(keys[sort])
    else:
        counts = [sum(one.key == line.key for one in find_failures(lines_of(page))) for line in shown]
        assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    "query",
    ["page=0", "page=-1", "page=99999999999999", "page=x", "page=²", "sort=nothing", "series=s9", "signature=<script>",
     "correct=maybe", "organ=%00", "q=%ff%fe", "modality=%F0%9F%98%80", f"q={'x' * 5000}", "page=2&page=3", "page="],
)  # fmt: skip
def test_odd_addresses(page, query):
    answer = page.get(f"/?{query}")
    assert answer.status_code == 200
    assert page.get(f"/failures?{query}").status_code == 200
    assert "<script>" not in answer.text


def test_nothing_found(page):
    text = page.get("/?q=zzz").text
    assert "No case fits these filters" in text and "0 of 19 cases" in text


def test_addresses_of_a_list():
    wanted = Wanted.of({"organ": "left & right", "page": "3", "sort": "unsure"})
    assert wanted.but(page=4) == "?organ=left+%26+right&sort=unsure&page=4"
    assert wanted.but(correct="wrong") == "?correct=wrong&organ=left+%26+right&sort=unsure"
    assert Wanted().but() == "?"


@pytest.mark.parametrize(
    "query",
    ["", "series=s0", "sort=suspicious", "correct=wrong&sort=unsure", "series=s1&sort=question&page=2", "q=lung",
     "signature=any&sort=confident", "modality=CT", "page=2"],
)  # fmt: skip
def test_cases_are_walked_through_in_the_order_of_their_list(page, query, monkeypatch):
    from radvqa.serve import listing

    monkeypatch.setattr(listing, "PAGE_SIZE", 3)
    where = re.sub(r"&?page=2", "", query)
    pages = [page.get(f"/?{where}&page={number}").text for number in range(1, 8)]
    expected = list(dict.fromkeys(link for text in pages for link in case_links(text)))
    assert len(expected) > 2
    seen = [case_links(pages[0])[0]]
    while (link := link_of(page, seen[-1], "next")) is not None:
        seen.append(link)
        assert len(seen) <= len(expected)
    assert seen == expected
    for place, address in enumerate(expected):
        assert link_of(page, address, "previous") == (expected[place - 1] if place else None)
        back = link_of(page, address, "back")
        assert address in case_links(page.get(back).text)
        told = page.get("/api" + address).json()
        assert (told["place"], told["found"], told["back"]) == (place + 1, len(expected), back)
        assert told["neighbours"]["next"] == link_of(page, address, "next")


@pytest.mark.parametrize("signature", ["", "wrong_and_confident"])
def test_the_queue_is_walked_through_once(page, signature, monkeypatch):
    from radvqa.serve import listing

    monkeypatch.setattr(listing, "PAGE_SIZE", 4)
    pages = [page.get("/failures", params={"signature": signature, "page": str(n)}).text for n in range(1, 9)]
    expected = list(dict.fromkeys(link for text in pages for link in case_links(text)))
    seen = [expected[0]]
    while (link := link_of(page, seen[-1], "next")) is not None:
        seen.append(link)
        assert len(seen) <= len(expected)
    assert seen == expected
    for address in expected:
        back = link_of(page, address, "back")
        assert back.startswith("/failures?") and address in case_links(page.get(back).text)


def test_a_case_outside_its_list_still_leads_back(page):
    line = next(line for line in lines_of(page) if line.correct)
    address = f"/case/s0/{line.key}?correct=wrong"
    assert link_of(page, address, "next") is None and link_of(page, address, "previous") is None
    assert link_of(page, address, "back") == "/?correct=wrong"
    queue = f"/case/s0/{line.key}?list=failures&series=s9"
    assert link_of(page, queue, "back") == "/failures?series=s0"


def test_a_comparison_keeps_the_list(page, key):
    text = page.get(f"/case/s0/{key}?sort=unsure&organ=Lung").text
    assert f"/compare?a=s0/{key}&amp;b=s1/{key}&amp;organ=Lung&amp;sort=unsure" in text
    assert 'data-query="?organ=Lung&amp;sort=unsure"' in text


def test_comparisons_are_walked_through(page):
    keys = [key.partition("/")[2] for key in shown_keys(page, {"series": "s0", "sort": "blind"})]
    both = [key for key in keys if any(line.key == key for line in lines_of(page, 1))]
    for place, key in enumerate(both):
        at = f"/compare?a=s0/{key}&b=s1/{key}&series=s0&sort=blind"
        for name, near in (("previous", place - 1), ("next", place + 1)):
            other = both[near] if 0 <= near < len(both) else None
            expected = other and f"/compare?a=s0/{other}&b=s1/{other}&series=s0&sort=blind"
            assert link_of(page, at, name) == expected
    assert len(both) == 4
    same = f"/compare?a=s0/{both[0]}&b=s0/{both[0]}"
    assert link_of(page, same, "next") is None


def test_filters_count_the_cases_of_the_chosen_series(page):
    for query, lines in (("", 19), ("?series=s1", 4)):
        text = page.get("/" + query).text
        for name in ("correct", "modality", "organ"):
            field = text.partition(f'id="filter-{name}"')[2].partition("</select>")[0]
            assert sum(int(one) for one in re.findall(r"\((\d+)\)</option>", field)) == lines
        field = text.partition('id="filter-series"')[2].partition("</select>")[0]
        assert sum(int(one) for one in re.findall(r"\((\d+)\)</option>", field)) == 19
    first, last = ({value_of(line, "organ") for line in lines_of(page, number)} for number in (0, 2))
    only = next(iter(first - last))
    text = page.get("/", params={"series": "s2", "organ": only}).text
    assert f'<option value="{only}" selected>{only} (0)</option>' in text and "0 of 19 cases" in text


@pytest.mark.parametrize(
    ("reliance", "words"),
    [(0.0, "1 times"), (math.log(1.234), "1.2 times"), (-0.7, "0.5 times"), (math.log(3), "3 times"),
     (math.log(424), "420 times"), (7.0, "over 1000 times"), (1e6, "over 1000 times"), (-1e6, "under 0.01 times"),
     (math.nan, "not defined")],
)  # fmt: skip
def test_use_of_the_image_in_words(reliance, words):
    assert times(reliance) == words


def test_use_of_the_image_in_the_list(page):
    text = page.get("/").text
    for line in lines_of(page):
        assert f'<span title="{line.reliance:.2f} nats">{times(line.reliance)}</span>' in text


def test_the_failure_finder(page):
    answer = page.get("/failures")
    lines = lines_of(page)
    failures = find_failures(lines)
    assert f"{len(failures)} entries" in answer.text
    queue = answer.text.partition('id="queue"')[2]
    assert re.findall(r'href="/case/s0/([^"?]+)\?', queue) == [one.key for one in failures]
    for one in failures:
        assert one.points_to in answer.text
    for group in ("modality", "organ", "content_type"):
        table = answer.text.partition(f'id="group-{group}"')[2].partition("</table>")[0]
        for value in {value_of(line, group) for line in lines}:
            row = next(row for row in table.split("<tr>") if f">{value}</a>" in row)
            numbers = [int(one) for one in re.findall(r">(\d+)</(?:td|a|span)", row)]
            cases = [line for line in lines if value_of(line, group) == value]
            keys = {line.key for line in cases}
            signs = [sum(one.signature == name and one.key in keys for one in failures) for name in SIGNATURES]
            wrong = re.search(r"correct=wrong[^>]*>(\d+)<", row)
            assert int(wrong[1] if wrong else 0) == sum(line.correct is False for line in cases)
            assert numbers[0] == len(cases) and numbers[-len(SIGNATURES) :] == signs
    sign = failures[0].signature
    alone = page.get("/failures", params={"signature": sign}).text
    assert f"{sum(one.signature == sign for one in failures)} entries" in alone
    assert page.get("/failures?series=s1").text != answer.text


def test_the_counts_lead_to_lists_of_as_many(page):
    seen = Seen(page.get("/failures").text)
    links = [one["href"] for one in seen.all("a") if one["href"].startswith("/?series=s0&")]
    assert len(links) > 10
    for link in links[:12]:
        count = int(re.search(r"(\d+) of 19 cases", page.get(link).text)[1])
        assert count > 0
        assert re.search(rf'href="{re.escape(link).replace("&", "&amp;")}"[^>]*>', page.get("/failures").text)


def test_the_case_page_without_script(page, key):
    text = page.get(f"/case/s0/{key}").text
    line = lines_of(page)[0]
    for part in (line.question, line.answer, line.references[0], f"/image/s0/{key}.png", f'data-key="{key}"'):
        assert part in text
    assert "<noscript>" in text
    assert f"/compare?a=s0/{key}&amp;b=s1/{key}" in text


@pytest.mark.parametrize("query", ["", "?a=s0/{key}", "?a=s0/{key}&b=s0/nothing", "?a=s9/{key}&b=s0/{key}", "?a=&b="])
def test_comparisons_need_two_cases(page, key, query):
    assert page.get("/compare" + query.format(key=key)).status_code == 404


def test_different_pictures_are_not_compared(page, key):
    other = next(line for line in lines_of(page) if line.image_id != lines_of(page)[0].image_id)
    answer = page.get(f"/compare?a=s0/{key}&b=s1/{lines_of(page, 1)[0].key}")
    assert answer.status_code == 200
    answer = page.get(f"/compare?a=s0/{key}&b=s0/{other.key}")
    assert answer.status_code == 422 and "text/html" in answer.headers["content-type"]
    assert "show different pictures" in answer.text


def test_the_help_lists_the_keys_that_there_are(page):
    """The page's script makes the keys and their dialog from one table; the help page has no script."""
    words = r'"(?:[^"\\]|\\.)*"'
    array = rf"\[{words}(?:,\s*{words})*\]"
    shown = rf"one\(\s*(?:{words},\s*)?(?:{array}|[A-Z]+\.map\([^\n]*?\)),\s*({array}),"
    scripts = "".join(one.read_text() for one in resources.files("radvqa.serve").joinpath("static").glob("*.js"))
    found = re.findall(shown, scripts)
    assert len(found) == len(re.findall(r"\bone\(", scripts)) > 30
    keys = {key for one in found for key in json.loads(one)}
    table = page.get("/help").text.partition('id="key-table"')[2].partition("</table>")[0]
    listed = re.findall(r"<kbd>([^<]+)</kbd>", table)
    assert {key.casefold() for key in listed} == {key.casefold() for key in keys - {"…"}}


def test_the_help_says_that_attention_is_not_explanation(page):
    text = page.get("/help").text
    for part in ("Attention is not explanation", "Jain", "Wiegreffe", "Serrano", "Adebayo", "Tomsett", "reliance",
                 "specificity", "token_occlusion", "wrong and confident", "<kbd>PgDn</kbd>"):  # fmt: skip
        assert part in text
    ids = set(re.findall(r'id="([^"]+)"', text))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= ids


def test_hostile_texts_stay_texts(client, hostile, planted):
    page = client(hostile)
    lines = lines_of(page)
    key = lines[1].key
    paths = [*every_page(page, key), "/failures?signature=off_target", "/?organ=" + "%3Cscript%3E", "/?sort=suspicious"]
    for path in paths:
        answer = page.get(path)
        seen = Seen(answer.text)
        assert {tag for tag, _ in seen.tags}.isdisjoint({"svg", "iframe", "object", "embed", "base", "b", "x"}), path
        assert all(one["src"].startswith("/static/") for one in seen.all("script"))
        assert all(one["src"].startswith(("/image/", "/thumbnail/")) for one in seen.all("img"))
        assert not [name for _, attributes in seen.tags for name in attributes if name[:2] == "on"]
        assert "{{" not in answer.text.replace(planted.TEMPLATE, "").replace("{{ 7 * 7 }}", "")
        assert "49" not in re.sub(r"[0-9a-f]{16}", "", " ".join(seen.texts)).replace(".49", "")
        assert str(hostile.parent) not in answer.text
    assert planted.MARKUP in "".join(Seen(page.get(f"/case/s0/{key}").text).texts)
    for path in ("/api/cases", f"/api/case/s0/{key}"):
        answer = page.get(path)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert planted.MARKUP in answer.json()["cases"][1]["question"] if path == "/api/cases" else True


def test_500_cases_list_at_once(client, planted, tmp_path):
    folder = tmp_path / "many"
    (line,) = planted.planted_cases(folder, 1, layers=1, heads=1)
    from dataclasses import replace

    from radvqa.explain.bundle_files import case_key, write_cases

    names = [f"sample {number}" for number in range(499)]
    keys = [case_key(name) for name in names]
    write_cases(
        folder,
        [
            line,
            *(
                replace(line, key=key, folder=f"cases/{key}", sample_id=name)
                for key, name in zip(keys, names, strict=True)
            ),
        ],
    )
    start = time.perf_counter()
    page = client(folder)
    opened = time.perf_counter()
    first = page.get("/")
    listed = time.perf_counter()
    assert "500 of 500 cases" in first.text and first.text.count("<tr>") == 51
    assert "Page 1 of 10" in first.text
    for path in ("/?sort=suspicious&q=lung&page=10", "/failures", "/api/cases"):
        page.get(path)
    done = time.perf_counter()
    # Far below a second each on a quiet machine; the limits leave room for a busy one.
    assert opened - start < 5 and listed - opened < 1 and done - listed < 3
    assert re.search(r'rel="next" href="\?page=2"', first.text)
    last = page.get("/?page=10").text
    assert last.count("<tr>") == 51 and 'rel="next"' not in last
