"""What the page's script gets: JSON as the contract says, bytes equal to the arrays."""

import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from radvqa.explain.bundle import MapFacts
from radvqa.explain.bundle_files import VALUES, case_folder, read_bundle
from radvqa.explain.failures import find_failures
from radvqa.explain.methods import METHODS
from radvqa.serve.case_bytes import quantised, windowed


def bundle(run, key):
    return read_bundle(case_folder(run / "explain", key))


def test_series_follow_the_command_line_with_the_stages_of_a_run(client, run, hostile):
    page = client(hostile, run)
    assert [(one["id"], one["run"], one["stage"]) for one in page.get("/api/cases").json()["series"]] == [
        ("s0", "batch", ""),
        ("s1", "slake_0123456789ab", ""),
        ("s2", "slake_0123456789ab", "base"),
        ("s3", "slake_0123456789ab", "align"),
    ]
    assert page.get("/api/cases").json()["series"][1]["model"] == "embedded"


def test_the_list_of_cases(page, run):
    answer = page.get("/api/cases")
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    lines = page.app.state.cases.series[0].listing().lines
    assert len(told["cases"]) == 12 + 4 + 3
    for line, case in zip(lines, told["cases"][:12], strict=True):
        for name in ("key", "question", "answer", "correct", "confidence", "reliance", "tags"):
            assert case[name] == getattr(line, name)
        assert (case["series"], case["references"]) == ("s0", list(line.references))
        expected = [one.signature for one in find_failures(lines) if one.key == line.key]
        assert case["signatures"] == expected
        assert (case["reason"] is None) == (not expected)
        assert case["facts"]["raw"]["low"] == line.facts["raw"].low
    assert any(case["signatures"] for case in told["cases"])
    assert str(run.parent) not in answer.text


def test_a_case(page, run, key):
    told = page.get(f"/api/case/s0/{key}").json()
    manifest = bundle(run, key).manifest
    assert "files" not in told
    assert (told["series"], told["key"], told["live"]) == ("s0", key, False)
    assert told["question"] == manifest.question
    assert told["picture"]["width"] == manifest.picture.width
    view = told["views"]["model"]
    answer = sum(token.part == "answer" for token in manifest.views["model"].tokens)
    every = len(manifest.views["model"].tokens)
    assert view["shape"] == {"T": every, "L": 3, "H": 2, "r": 16, "c": 16, "p": every - answer, "t": answer}
    assert view["maps"][0]["answer"]["high"] == manifest.views["model"].maps[0].answer.high
    assert told["methods"] == [
        {"name": one.method, "line": METHODS[one.method]} for one in manifest.views["model"].maps
    ]
    assert told["same_case"] == [{"series": "s1", "key": key}, {"series": "s2", "key": key}]
    assert str(run.parent) not in json.dumps(told)


def test_without_a_list_the_neighbours_are_those_of_the_series(page):
    keys = [line.key for line in page.app.state.cases.series[1].listing().lines]
    for place, key in enumerate(keys):
        told = page.get(f"/api/case/s1/{key}").json()
        assert (told["query"], told["back"], told["place"], told["found"]) == ("", "/", place + 1, 4)
        assert told["neighbours"]["previous"] == (f"/case/s1/{keys[place - 1]}" if place else None)
        assert told["neighbours"]["next"] == (f"/case/s1/{keys[place + 1]}" if place + 1 < len(keys) else None)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_bytes_equal_the_arrays(page, run, number):
    key = page.app.state.cases.series[0].listing().lines[number].key
    case = bundle(run, key)
    for name, view in case.manifest.views.items():

        def part(what, name=name):
            answer = page.get(f"/api/case/s0/{key}/{name}/{what}")
            assert answer.headers["content-type"] == "application/octet-stream"
            return answer.content

        shape = page.get(f"/api/case/s0/{key}").json()["views"][name]["shape"]
        sizes = {axes: [shape[axis] for axis in axes] for axes in ("TLHrc", "TLH", "Lrcp", "rc")}
        attention = np.frombuffer(part("attention"), np.uint8).reshape(sizes["TLHrc"])
        assert np.array_equal(attention, case.array(f"{name}/attention"))
        scales = np.frombuffer(part("scales"), "<f4").reshape(2, *sizes["TLH"])
        assert np.array_equal(scales[0], case.array(f"{name}/attention_scale"))
        assert np.array_equal(scales[1], case.array(f"{name}/image_mass"))
        to_prompt = np.frombuffer(part("image_to_prompt"), "<f4").reshape(sizes["Lrcp"])
        assert np.array_equal(to_prompt, case.array(f"{name}/image_to_prompt").astype(np.float32))
        maps = np.frombuffer(part("maps"), np.uint8).reshape(len(view.maps), shape["t"] + 1, *sizes["rc"])
        for record, found in zip(view.maps, maps, strict=True):
            exact = case.array(f"{name}/maps/{record.method}")
            for facts, steps, grid in zip((*record.tokens, record.answer), found, exact, strict=True):
                back = facts.low + steps / 255 * (facts.high - facts.low)
                assert np.abs(back - grid).max() <= (facts.high - facts.low) / 255 * 0.51
                assert (steps.min(), steps.max()) == (0, 255)


def test_maps_without_a_difference_or_with_undefined_cells():
    grid = np.array([[1.0, 1.0]])
    assert quantised(grid, MapFacts(low=1.0, high=1.0)).tolist() == [[0, 0]]
    grid = np.array([[np.nan, -1.0, 0.0, 3.0]])
    assert quantised(grid, MapFacts(low=-1.0, high=1.0)).tolist() == [[0, 0, 128, 255]]
    assert quantised(grid, MapFacts(low=float("nan"), high=1.0)).tolist() == [[0, 0, 0, 0]]


def test_the_picture(page, run, key):
    answer = page.get(f"/image/s0/{key}.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), bundle(run, key).pixels)


def test_the_window_of_a_ct(page, run):
    key = page.app.state.cases.series[0].listing().lines[1].key
    values = bundle(run, key).array(VALUES)
    answer = page.get(f"/image/s0/{key}.png", params={"center": 40, "width": 400})
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(shown, windowed(values, center=40, width=400))
    assert (shown[values <= -160] == 0).all() and (shown[values >= 240] == 255).all()
    assert set(np.unique(windowed(np.array([-160.0, 40.0, 240.0]), center=40, width=400))) == {0, 128, 255}


@pytest.mark.parametrize(
    ("query", "status"),
    [("center=40&width=400", 404), ("center=40", 422), ("width=1", 422), ("center=x&width=1", 422),
     ("center=nan&width=1", 422), ("center=1&width=inf", 422), ("center=1&width=0", 422), ("center=1e9&width=1", 422)],
)  # fmt: skip
def test_windows_that_there_are_not(page, key, query, status):
    answer = page.get(f"/image/s0/{key}.png?{query}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"


def test_thumbnails_are_small(page, key):
    answer = page.get(f"/thumbnail/s0/{key}.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert max(Image.open(io.BytesIO(answer.content)).size) == 96
    assert len(answer.content) < 6000


def test_bytes_are_kept_by_this_browser_only_and_sent_once(page, key):
    version = page.get(f"/api/case/s0/{key}").json()["version"]
    for path in (f"/api/case/s0/{key}/model/maps", f"/image/s0/{key}.png", f"/thumbnail/s0/{key}.jpg", "/api/cases"):
        first = page.get(path)
        assert first.headers["cache-control"] == "private, no-cache"
        again = page.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert page.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    fixed = page.get(f"/api/case/s0/{key}/model/maps?v={version}")
    assert fixed.headers["cache-control"] == "private, max-age=31536000, immutable"
    other = page.get(f"/api/case/s0/{key}/model/maps?v=other")
    assert other.headers["cache-control"] == "private, no-cache"
    windows = {page.get(f"/image/s0/{key}.png").headers["etag"], page.get(f"/thumbnail/s0/{key}.jpg").headers["etag"]}
    assert len(windows) == 2
    for path in ("/", f"/case/s0/{key}", f"/api/case/s0/{key}", "/help", "/failures"):
        assert page.get(path).headers["cache-control"] == "no-store"


def test_the_list_comes_packed_if_the_browser_takes_it(page):
    packed = page.get("/api/cases", headers={"Accept-Encoding": "gzip"})
    plain = page.get("/api/cases", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 2
    assert packed.json() == plain.json()
    assert packed.headers["etag"] != plain.headers["etag"]


def test_cases_that_come_later_are_shown(client, planted, tmp_path):
    folder = tmp_path / "batch"
    planted.planted_cases(folder, 2, layers=1, heads=1)
    page = client(folder)
    before = page.get("/api/cases")
    key = before.json()["cases"][0]["key"]
    picture = page.get(f"/image/s0/{key}.png").headers["etag"]
    planted.planted_cases(folder, 5, layers=1, heads=1, seed=9)
    after = page.get("/api/cases", headers={"If-None-Match": before.headers["etag"]})
    assert (after.status_code, len(after.json()["cases"])) == (200, 5)
    assert "5 of 5 cases" in page.get("/").text
    assert page.get(f"/image/s0/{key}.png").headers["etag"] != picture


@pytest.mark.parametrize(
    "path",
    ["/api/case/s0/nothing", "/api/case/s9/{key}", "/api/case/{key}/s0", "/api/case/s0/{key}/nothing/maps",
     "/api/case/s0/{key}/model/nothing", "/api/case/s0/{key}/reference2/maps", "/api/case/s0/{key}/model/files",
     "/image/s0/nothing.png", "/image/s0/{key}.jpg", "/thumbnail/s0/nothing.jpg", "/api/nothing",
     "/api/case/s0/ask-000000000000"],
)  # fmt: skip
def test_what_is_unknown_is_not_found(page, key, path):
    answer = page.get(path.format(key=key))
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    assert answer.json()["error"]


def test_a_damaged_first_case_does_not_stop_the_page(client, planted, tmp_path):
    folder = tmp_path / "batch"
    lines = planted.planted_cases(folder, 2, layers=1, heads=1)
    (case_folder(folder, lines[0].key) / "manifest.json").write_text("{")
    page = client(folder)
    assert page.get("/api/cases").json()["series"][0]["model"] == "embedded"
    assert page.get(f"/case/s0/{lines[1].key}").status_code == 200
    assert page.get(f"/case/s0/{lines[0].key}").status_code == 500
    shutil.rmtree(folder / "cases")
    assert client(folder).get("/").status_code == 200


def test_a_thumbnail_is_answered_without_opening_its_case(page, key, monkeypatch):
    (address,) = re.findall(rf'src="(/thumbnail/s0/{key}[^"]*)"', page.get("/?series=s0").text)
    first = page.get(address)
    assert first.headers["cache-control"] == "private, max-age=31536000, immutable"
    opened = []
    monkeypatch.setattr(type(page.app.state.cases), "open", lambda *names: opened.append(names))
    again = page.get(address)
    assert (again.content, opened) == (first.content, [])
    assert page.get(address, headers={"If-None-Match": first.headers["etag"]}).status_code == 304


def test_a_thumbnail_of_a_case_that_was_made_anew(client, planted, tmp_path):
    folder = tmp_path / "batch"
    planted.planted_cases(folder, 1, layers=1, heads=1)
    page = client(folder)
    first = re.findall(r'src="(/thumbnail/[^"]*)"', page.get("/").text)
    old = page.get(first[0]).content
    planted.planted_cases(folder, 1, layers=1, heads=1, seed=9)
    second = re.findall(r'src="(/thumbnail/[^"]*)"', page.get("/").text)
    assert second != first
    assert page.get(second[0]).content != old
    assert page.get(first[0]).headers["cache-control"] == "private, no-cache"


def test_samples_of_the_same_name_are_the_same_case_only_with_the_same_picture(client, planted, tmp_path):
    from dataclasses import replace

    from radvqa.explain.bundle_files import write_cases

    lines = planted.planted_cases(tmp_path / "one", 2, layers=1, heads=1)
    other = planted.planted_cases(tmp_path / "two", 2, layers=1, heads=1)
    write_cases(tmp_path / "two", [other[0], replace(other[1], image_id="another")])
    page = client(tmp_path / "one", tmp_path / "two")
    same = [page.get(f"/api/case/s0/{line.key}").json()["same_case"] for line in lines]
    assert same == [[{"series": "s1", "key": lines[0].key}], []]


def test_a_damaged_case_is_told_without_its_place(client, planted, tmp_path):
    folder = tmp_path / "batch"
    lines = planted.planted_cases(folder, 3, layers=1, heads=1)
    page = client(folder)
    arrays = case_folder(folder, lines[1].key) / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    answer = page.get(f"/api/case/s0/{lines[1].key}/model/maps")
    assert answer.status_code == 500
    assert "not the one that was written" in answer.json()["error"]
    shutil.rmtree(case_folder(folder, lines[2].key))
    gone = page.get(f"/case/s0/{lines[2].key}")
    assert gone.status_code == 500 and "text/html" in gone.headers["content-type"]
    for one in (answer, gone):
        assert str(tmp_path) not in one.text and "safetensors" not in one.text
        assert "default-src 'none'" in one.headers["content-security-policy"]
    assert page.get("/").status_code == 200
