"""Two stages side by side: one scale, one zoom, the difference of their maps."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def pair_path(case_paths):
    series, key = case_paths[0].split("/")[2:]
    return f"/compare?a={series}/{key}&b=s1/{key}"


@pytest.fixture(scope="session")
def opened_pair(open_tab, origin, pair_path):
    found = open_tab(origin)
    found.open(pair_path)
    return found


@pytest.fixture
def pair(opened_pair):
    yield opened_pair
    opened_pair.page.keyboard.press("Escape")
    opened_pair.page.keyboard.press(" ")
    opened_pair.check()


def test_one_scale_and_the_difference(pair, run, case_paths):
    from radvqa.explain.bundle_files import read_bundle

    page = pair.page
    key = case_paths[0].rsplit("/", 1)[1]
    cases = [read_bundle(run / "explain" / part / "cases" / key) for part in ("", "stage-base")]
    for method in ("token_occlusion", "raw"):  # the values of the first are no shares
        page.select_option("#method", method)
        pair.settle()
        scales = [page.locator(f"#side-{side} .ramp").inner_text() for side in "ab"]
        assert scales[0] == scales[1]
        first, second = (case.array(f"model/maps/{method}")[-1] for case in cases)
        shown = float(page.inner_text("#side-difference .high"))
        assert shown == pytest.approx(np.abs(first - second).max(), rel=0.03)
    assert "more in A" in page.inner_text("#side-difference")


def test_zoom_is_shared(pair):
    page = pair.page
    before = [pair.pixels(f"#stage-{side} .overlay") for side in ("a", "b", "difference")]
    page.keyboard.press("+")
    page.keyboard.press("r")
    after = [pair.pixels(f"#stage-{side} .overlay") for side in ("a", "b", "difference")]
    assert all(x != y for x, y in zip(before, after, strict=True))
    box = page.locator("#stage-b").bounding_box()
    page.mouse.move(box["x"] + 150, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 110, steps=4)
    page.mouse.up()
    moved = [pair.pixels(f"#stage-{side} .overlay") for side in ("a", "b", "difference")]
    assert all(x != y for x, y in zip(after, moved, strict=True))


def test_swapping_sides(pair):
    page = pair.page
    first = page.inner_text("#title-a")
    difference = pair.pixels("#stage-difference .overlay")
    page.keyboard.press("x")
    assert page.locator(".side h2").first.inner_text() == page.inner_text("#title-b")
    assert page.inner_text("#title-a") == first.replace("A:", "B:")
    assert pair.pixels("#stage-difference .overlay") != difference
    page.click("#swap")
    assert page.inner_text("#title-a") == first
    assert pair.pixels("#stage-difference .overlay") == difference


def test_method_scale_and_tokens(pair):
    page = pair.page
    seen = {pair.pixels("#stage-a .overlay")}
    page.select_option("#method", "chefer")
    seen.add(pair.pixels("#stage-a .overlay"))
    assert page.input_value("#unit") == "shares"  # relevance has no unit that two models share
    page.select_option("#unit", "values")
    assert "no unit" in page.inner_text("#side-a .legend")
    page.select_option("#unit", "shares")
    assert "share of the map" in page.inner_text("#side-a .legend")
    page.select_option("#method", "token_occlusion")
    assert "-" not in page.inner_text("#side-difference p").split("share")[-1]
    page.select_option("#method", "chefer")
    page.select_option("#unit", "values")
    page.locator("#side-a .token").first.click()
    assert page.locator("#side-a .token[aria-pressed='true']").count() == 1
    seen.add(pair.pixels("#stage-a .overlay"))
    page.click("#whole-answer")
    assert page.locator(".token[aria-pressed='true']").count() == 0
    page.select_option("#method", "raw")
    assert len(seen) == 3


def test_overlay_keys_work_on_all_sides(pair):
    page = pair.page
    before = [pair.pixels(f"#stage-{side} .overlay") for side in ("a", "b")]
    page.keyboard.press("g")
    after = [pair.pixels(f"#stage-{side} .overlay") for side in ("a", "b")]
    assert all(x != y for x, y in zip(before, after, strict=True))
    page.keyboard.press("g")
    page.keyboard.press("i")
    filters = page.evaluate("[...document.querySelectorAll('.openseadragon-canvas canvas')].map((c) => c.style.filter)")
    assert sum("window" in one for one in filters) == 3
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("Escape")


def test_the_reference_and_the_neighbours(pair, pair_path, case_paths):
    page = pair.page
    assert page.inner_text("#reference") == "Reference: Yes"
    facts = page.locator("#side-a .facts")
    assert not facts.is_visible()
    page.locator("#side-a summary").click()
    assert facts.is_visible()
    key = case_paths[1].rsplit("/", 1)[1]
    page.keyboard.press("PageDown")
    page.wait_for_url(f"**/compare?a=s0/{key}&b=s1/{key}*", wait_until="commit")
    page.wait_for_selector("#side-b .fact", state="attached")
    page.keyboard.press("PageUp")
    page.wait_for_url(f"**{pair_path}*", wait_until="commit")
    page.wait_for_selector("#side-b .fact", state="attached")
    page.keyboard.press("PageUp")
    assert pair.said() == "This is the first case of both"


def test_only_maps_of_one_picture_and_frame_are_subtracted(pair):
    told = pair.page.evaluate(
        """async () => {
          const { whatDiffers } = await import("/static/compare_side.js");
          const picture = { width: 9, height: 9, frame: [0, 0, 9, 9] };
          const one = { image_id: "a", grid: [2, 2], picture };
          return [
            one, { ...one, image_id: "b" }, { ...one, grid: [3, 3] }, { ...one, picture: { ...picture, width: 8 } },
            { ...one, picture: { ...picture, frame: [0, -1, 9, 11] } },
          ].map((other) => whatDiffers(one, other));
        }"""
    )
    assert told[0] == "" and all(told[1:]) and len(set(told)) == 5
