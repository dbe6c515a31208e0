"""Every control of the case page, driven as a reader would."""

import pytest

METHODS = ("raw", "raw_value", "rollout", "rollout_90", "contrast", "chefer", "grad_cam", "token_occlusion")


@pytest.fixture
def long_answer(visit, origin, case_paths):
    """A reference of several words."""
    found = visit(origin)
    found.open(case_paths[3])
    found.page.get_by_text("Reference answer", exact=True).click()
    found.page.wait_for_function("() => document.querySelectorAll('.tokens')[1].children.length > 2")
    return found


def test_what_is_always_there(case):
    page = case.page
    assert "Never for clinical use" in page.inner_text("#research")
    assert "not why it answered so" in page.inner_text("#foot")
    for selector in ("#research", "#foot"):
        box = page.locator(selector).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 900
    assert page.locator("#panel .warnings li").count() >= 1
    assert page.inner_text(".bar-title").startswith("Contrast (8-bit")


def test_the_map_is_drawn_where_the_grid_is(case):
    """A map of one bright cell must be brightest on the screen where that cell of the picture is."""
    found = case.page.evaluate(
        """async () => {
          const { drawOverlay, paintMap } = await import("/static/overlay.js");
          const canvas = document.createElement("canvas");
          canvas.style.width = canvas.style.height = "320px";
          document.body.append(canvas);
          const map = new Float32Array(16 * 16);
          map[3 * 16 + 5] = 1;
          const [rows, columns, picture] = [16, 16, { width: 160, height: 160, frame: [0, -40, 160, 240] }];
          const painted = paintMap(map, { rows, columns, low: 0, high: 1, colours: "hot", smooth: false });
          const nothing = { outlines: [], grid: false, sinks: [], patches: [], cursor: null };
          const what = { painted, opacity: 1, smooth: false, picture, rows, columns, ...nothing };
          drawOverlay(canvas, [2, 0, 0, 2, 0, 0], what);
          const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let [left, top, right, bottom] = [1e9, 1e9, -1, -1];
          for (let i = 3; i < data.length; i += 4) {
            if (data[i] < 250) continue; // the edge of the frame
            const [x, y] = [((i - 3) / 4) % width, Math.floor((i - 3) / 4 / width)];
            [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
          }
          canvas.remove();
          return [left, top, right + 1, bottom + 1];
        }"""
    )
    # cell 10 x 15 pixels at (50, -40 + 45), twice as large on the screen
    assert found == [100, 10, 120, 40]


def test_smooth_maps_keep_their_peak_and_their_range(case):
    peak, low, high = case.page.evaluate(
        """async () => {
          const { interpolated } = await import("/static/overlay.js");
          const map = new Float32Array([0, 0, 0, 0, 1, 0, 0, 0, 0]);
          const fine = interpolated(map, 3, 3);
          const at = fine.indexOf(Math.max(...fine));
          return [[Math.floor(at / 48 / 16), Math.floor((at % 48) / 16)], Math.min(...fine), Math.max(...fine)];
        }"""
    )
    assert peak == [1, 1] and low == 0 and 0.9 < high <= 1


def test_methods(case):
    page = case.page
    seen = {case.pixels()}
    for method in METHODS[1:]:
        page.select_option("#method", method)
        seen.add(case.pixels())
        assert method in page.inner_text(".legend-title") and method in case.said()
        assert len(page.inner_text(".line")) > 20
    assert len(seen) == len(METHODS)


def test_map_values_are_those_of_the_bundle(case, run, case_paths):
    """Bytes, low and high give back the map within half a step."""
    import numpy as np

    from radvqa.explain.bundle_files import read_bundle

    key = case_paths[0].rsplit("/", 1)[1]
    bundle = read_bundle(run / "explain" / "cases" / key)
    shown = case.page.evaluate(
        """async ([series, key]) => {
          const { readCase } = await import("/static/cases_api.js");
          const { readMaps } = await import("/static/maps.js");
          const maps = await readMaps(await readCase(series, key), "model", () => {});
          await maps.attentionRead;
          return {
            occlusion: [...maps.ofMethod("token_occlusion", null)],
            attention: [...maps.ofAttention([2], 1, 0)],
            patches: [...maps.onPatches([3, 40], null, 1)],
            mass: [...maps.matrix([2])],
          };
        }""",
        ["s0", key],
    )
    grid = bundle.array("model/maps/token_occlusion")[-1].ravel()
    assert np.abs(np.array(shown["occlusion"]) - grid).max() <= (grid.max() - grid.min()) / 255 / 2 + 1e-6
    weights = bundle.array("model/attention").astype(float) / 255
    weights *= bundle.array("model/attention_scale")[..., None, None]
    np.testing.assert_allclose(shown["attention"], weights[2, 1, 0].ravel(), rtol=1e-4, atol=1e-8)
    flat = weights.reshape(*weights.shape[:3], -1)
    np.testing.assert_allclose(shown["patches"], flat[:, :, 1][..., [3, 40]].sum(-1).mean(1), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(shown["mass"], bundle.array("model/image_mass")[2].ravel(), rtol=1e-6)


def test_views(case):
    page = case.page
    first = page.inner_text(".answer")
    page.get_by_text("Reference answer", exact=True).click()
    page.wait_for_function("(first) => document.querySelector('.answer').innerText !== first", arg=first)
    assert "right" in page.inner_text(".answer")
    page.wait_for_function("() => document.querySelector('#said').textContent.includes('Answer explained')")


def test_tokens_and_phrases(long_answer):
    page = long_answer.page
    tokens = page.locator(".tokens").nth(1).locator(".token")
    assert tokens.count() > 1
    whole = long_answer.pixels()
    tokens.nth(0).click()
    first = long_answer.pixels()
    assert first != whole and tokens.nth(0).get_attribute("aria-pressed") == "true"
    assert "Specificity" in page.inner_text(".facts")
    tokens.nth(1).click(modifiers=["Shift"])
    assert page.locator(".tokens").nth(1).locator("[aria-pressed='true']").count() == 2
    assert long_answer.pixels() not in (whole, first)
    tokens.nth(0).click()
    page.click("#against")
    assert "against the other words" in page.inner_text(".legend-title")
    assert long_answer.pixels() != first
    page.click("#whole-answer")
    assert long_answer.pixels() == whole


def test_words_of_the_question_have_raw_attention(case):
    page = case.page
    token = page.locator(".tokens").nth(0).locator(".token").nth(3)
    token.click()
    assert "raw attention" in page.inner_text(".legend-title")
    page.get_by_text("Back to the method's map").click()
    assert "raw attention" not in page.inner_text(".legend-title")


def test_numbers_of_tokens_are_told_in_text(case):
    page = case.page
    figures = page.locator(".token .figure").all_inner_texts()
    assert any("%" in figure for figure in figures) and any("×" in figure for figure in figures)
    assert "nats" in page.locator(".tokens >> nth=1 >> .token").first.get_attribute("title")
    page.select_option("#coloured-by", "reliance")
    figures = page.locator(".tokens >> nth=1 >> .figure").all_inner_texts()
    assert figures and all(figure[0] == "×" for figure in figures)
    assert page.locator(".tokens >> nth=0 >> .figure").first.inner_text() == "–"


def test_patches_show_which_tokens_attended(case):
    page = case.page
    box = page.locator("#stage").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#clear-patches")
    assert page.input_value("#coloured-by") == "patches"
    assert "on the chosen patch" in page.inner_text(".patches")
    inverse = page.locator(".tokens >> nth=0 >> .figure").all_inner_texts()
    page.select_option("#coloured-by", "prompt")
    page.wait_for_function("() => document.querySelector('.tokens .figure').textContent !== '–'")
    assert "the image never sees it" in page.inner_text(".patches")
    assert page.locator(".tokens >> nth=0 >> .figure").all_inner_texts() != inverse
    assert set(page.locator(".tokens >> nth=1 >> .figure").all_inner_texts()) == {"–"}
    page.click("#clear-patches")
    assert page.input_value("#coloured-by") == "usual"


def test_layers_and_heads(case):
    page = case.page
    whole = case.pixels()
    page.locator(".matrix [data-layer='1'][data-head='0']").click()
    assert "layer 2, head 1" in page.inner_text("#place")
    cell = case.pixels()
    assert cell != whole
    page.keyboard.press("ArrowDown")
    assert "layer 3, head 1" in page.inner_text("#place") and case.pixels() != cell
    page.keyboard.press("ArrowRight")
    assert "layer 3, head 2" in page.inner_text("#place")
    page.locator(".matrix [data-layer='0'][data-head='']").click()
    assert "layer 1, all heads" in page.inner_text("#place")
    page.locator(".matrix [data-layer=''][data-head='']").click()
    assert case.pixels() == whole


def test_overlay_controls(case):
    page = case.page
    seen = {case.pixels()}
    for act in (
        lambda: page.click("#smooth"),
        lambda: page.click("#grid"),
        lambda: page.click("#outlines"),
        lambda: page.locator("#opacity").fill("0.9"),
        lambda: page.select_option("#colours", "hot"),
        lambda: page.select_option("#colours", "cividis"),
        lambda: page.click("#shared"),
        lambda: page.click("#overlay"),
    ):
        act()
        seen.add(case.pixels())
    assert len(seen) == 9
    assert not page.locator(".legend").is_visible()


def test_turning_and_zooming_moves_the_map_with_the_picture(case):
    page = case.page
    seen = {case.pixels()}
    for name in ("zoom-in", "rotate-right", "rotate-left", "flip-horizontally", "flip-vertically", "zoom-out"):
        page.click(f"#{name}")
        seen.add(case.pixels())
    assert len(seen) >= 6
    page.click("#reset")
    assert case.pixels() in seen
    assert case.said() == "View reset"


def test_contrast_and_inversion(case):
    page = case.page

    def shown():
        return page.evaluate(
            """() => {
              const seen = document.querySelector("#stage .openseadragon-canvas canvas");
              return [seen.style.filter, document.querySelector("feFuncR").getAttribute("slope")];
            }"""
        )

    assert shown()[0] == "none"
    page.locator("#contrast").fill("200")
    assert shown() == ['url("#window-1")', "2.00000"]
    page.click("#invert")
    assert shown()[1] == "-2.00000"
    page.locator("#brightness").fill("70")
    assert page.inner_text("output[for=brightness]") == "70 %"
    page.click("#reset")
    assert shown()[0] == "none"


def test_window_of_hounsfield_units(visit, origin, case_paths):
    found = visit(origin)
    found.open(case_paths[1])
    page = found.page
    assert page.inner_text(".bar-title") == "Window (HU)"
    stored = page.locator("#stored")
    assert stored.get_attribute("aria-pressed") == "true"
    assert not any("/image/" in url and "center=" in url for url in found.requests)
    with page.expect_response(lambda response: "center=-600" in response.url and "width=1500" in response.url) as told:
        page.click("[data-preset='2']")
    assert told.value.status == 200
    assert page.get_attribute("[data-preset='2']", "aria-pressed") == "true"
    with page.expect_response(lambda response: "center=-600" in response.url and "width=400" in response.url):
        page.locator("#window-width").fill("400")
    assert stored.get_attribute("aria-pressed") == "false"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press(" ")
    assert stored.get_attribute("aria-pressed") == "true"


def test_dragging_with_the_window_tool_and_the_middle_button(case):
    page = case.page
    before = page.inner_text("output[for=contrast]")
    page.get_by_title("Window and level").click()
    box = page.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y - 40, steps=4)
    page.mouse.up()
    case.settle()
    changed = page.inner_text("output[for=contrast]")
    assert changed != before
    page.mouse.move(x, y)
    page.mouse.down(button="middle")
    page.mouse.move(x + 30, y, steps=3)
    page.mouse.up(button="middle")
    case.settle()
    assert page.inner_text("output[for=contrast]") != changed
    assert page.locator("#clear-patches").count() == 0


def test_a_slow_drag_changes_the_window_too(case):
    """One pixel at a time: nothing may be lost by rounding."""
    page = case.page
    page.get_by_title("Window and level").click()
    box = page.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for moved in range(1, 31):
        page.mouse.move(x + moved, y - moved)
    page.mouse.up()
    case.settle()
    assert page.inner_text("output[for=contrast]") in ("90 %", "91 %")
    assert page.inner_text("output[for=brightness]") == "56 %"


@pytest.mark.parametrize("turns", ["", "h", "v", "hr", "r"])
def test_a_click_chooses_the_patch_under_the_pointer(case, turns):
    """However the picture is turned or flipped: the readout tells which patch it is."""
    page = case.page
    for key in turns:
        page.keyboard.press(key)
    case.settle()
    box = page.locator("#stage").bounding_box()
    x, y = box["x"] + 0.35 * box["width"], box["y"] + 0.4 * box["height"]
    page.mouse.move(x, y)
    place = page.inner_text(".readout").split(":")[0]
    assert place.startswith("row ")
    page.mouse.click(x, y)
    page.wait_for_selector("#clear-patches")
    assert f"({place})" in page.inner_text(".patches")
    assert page.locator(".turned").is_visible() is bool(turns)


def test_value_under_the_pointer(case):
    box = case.page.locator("#stage").bounding_box()
    case.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert case.page.inner_text(".readout").startswith("row ")


def test_nothing_overflows(visit, origin, case_paths):
    found = visit(origin)
    for path in (case_paths[1], "/", "/failures", "/help"):
        found.open(path)
        for width in (900, 1280):
            found.page.set_viewport_size({"width": width, "height": 800})
            wider = found.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wider <= 0, (path, width)
            if path.startswith("/case/"):
                panel = found.page.evaluate("(p => p.scrollWidth - p.clientWidth)(document.querySelector('#panel'))")
                assert panel <= 0, width
