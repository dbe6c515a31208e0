"""The pages for people: lists that work without script, all states, hostile texts, 500 cases."""

import re
import time
from html.parser import HTMLParser

import pytest

from radvqa.explain.failures import SIGNATURES, find_failures
from radvqa.serve.listing import SORTS, Wanted, value_of


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
    links = [one.get("href", "") for one in Seen(answer.text).all("a")]
    return [link.removeprefix("/case/") for link in links if link.startswith("/case/")]


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


def test_the_failure_finder(page):
    answer = page.get("/failures")
    lines = lines_of(page)
    failures = find_failures(lines)
    assert f"{len(failures)} entries" in answer.text
    queue = answer.text.partition('id="queue"')[2]
    assert re.findall(r'href="/case/s0/([^"]+)"', queue) == [one.key for one in failures]
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
