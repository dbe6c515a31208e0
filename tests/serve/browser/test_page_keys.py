"""Every key of the case page, the help that lists them, and where keys must stay away."""

import pytest

SHOWN = """() => {
  const pressed = (id) => document.getElementById(id).getAttribute("aria-pressed") === "true";
  return {
    overlay: pressed("overlay"), smooth: pressed("smooth"), outlines: pressed("outlines"), grid: pressed("grid"),
    shared: pressed("shared"), invert: pressed("invert"), against: pressed("against"),
    opacity: Number(document.getElementById("opacity").value), colours: document.getElementById("colours").value,
    tool: document.querySelector("[name=tool]:checked").value,
    title: document.querySelector(".legend-title").textContent,
  };
}"""


def shown(case):
    return case.page.evaluate(SHOWN)


@pytest.mark.parametrize(
    ("key", "name"),
    [("b", "smooth"), ("m", "outlines"), ("g", "grid"), ("s", "shared"), ("i", "invert"), ("o", "overlay")],
)
def test_switches(case, key, name):
    before = shown(case)[name]
    case.page.keyboard.press(key)
    assert shown(case)[name] is not before and case.said()
    case.page.keyboard.press(key)
    assert shown(case)[name] is before


def test_holding_o_is_a_look(case):
    case.page.keyboard.down("o")
    case.page.wait_for_timeout(500)
    assert shown(case)["overlay"] is False
    case.page.keyboard.up("o")
    assert shown(case)["overlay"] is True


def test_opacity_and_colours(case):
    case.page.keyboard.press("]")
    assert shown(case)["opacity"] == pytest.approx(0.65) and case.said() == "Opacity 65 %"
    case.page.keyboard.press("[")
    case.page.keyboard.press("[")
    assert shown(case)["opacity"] == pytest.approx(0.45)
    seen = []
    for _ in range(4):
        case.page.keyboard.press("c")
        seen.append(shown(case)["colours"])
    assert seen == ["viridis", "cividis", "hot", "inferno"]


def test_view_keys(case):
    page = case.page
    page.keyboard.press("z")
    assert shown(case)["tool"] == "zoom"
    page.keyboard.press("z")
    assert shown(case)["tool"] == "pan"
    seen = [case.pixels()]
    for key in ("+", "r", "h", "v", "l", "-", "="):
        page.keyboard.press(key)
        seen.append(case.pixels())
        if key in "rlhv":
            assert case.said().startswith("Picture ")
    assert len(set(seen)) >= 6
    page.keyboard.press("i")
    page.keyboard.press(" ")
    assert case.pixels() == seen[0] and shown(case)["invert"] is False


def test_window_keys_say_that_8_bits_have_no_window(case):
    for key in "12345":
        case.page.keyboard.press(key)
        assert "no Hounsfield units" in case.said()


def test_token_layer_and_head_keys(case):
    page = case.page
    page.keyboard.press("ArrowRight")
    token = shown(case)["title"]
    assert "the whole answer" not in token
    page.keyboard.press("ArrowLeft")
    assert "the whole answer" in shown(case)["title"]
    page.keyboard.press("ArrowDown")
    assert "layer 1, all heads" in shown(case)["title"]
    page.keyboard.press("ArrowDown")
    page.keyboard.press(".")
    assert "layer 2, head 1" in shown(case)["title"]
    page.keyboard.press(",")
    page.keyboard.press("ArrowUp")
    assert "layer 1, all heads" in shown(case)["title"]
    page.keyboard.press("Escape")
    assert shown(case)["title"].endswith(": raw")


def test_against_the_others(case):
    page = case.page
    page.locator(".tokens >> nth=0 >> .token >> nth=4").click()
    page.keyboard.press("a")
    assert shown(case)["against"] and "against the other words" in shown(case)["title"]


def test_patches_by_the_keyboard(case):
    page = case.page
    page.keyboard.press("p")
    for key in ("ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert case.said() == "Row 10, column 10"
    page.keyboard.press("Enter")
    assert page.input_value("#coloured-by") == "patches" and case.said() == "1 patch chosen"
    page.keyboard.press("Escape")
    assert page.locator("#clear-patches").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#clear-patches").count() == 0


def test_next_and_previous_case(case, case_paths):
    page = case.page
    for key, place in (("PageDown", 1), ("Enter", 2), ("PageUp", 1)):
        page.keyboard.press(key)
        page.wait_for_url(f"**{case_paths[place]}", wait_until="commit")
        page.wait_for_selector("#stage[data-ready]")
    page.keyboard.press("PageUp")
    page.wait_for_url(f"**{case_paths[0]}", wait_until="commit")
    page.wait_for_selector("#stage[data-ready]")
    page.keyboard.press("PageUp")
    assert case.said() == "This is the first case"
    page.keyboard.press("x")
    page.wait_for_url("**/compare?**", wait_until="commit")
    page.wait_for_selector("#stage-b[data-ready]")


def test_help_dialog_holds_the_focus_and_gives_it_back(case):
    page = case.page
    page.focus("#open-help")
    page.keyboard.press("?")
    dialog = page.locator("dialog[open]")
    assert dialog.count() == 1
    keys = dialog.locator("kbd").all_inner_texts()
    for key in ["z", "+", "-", "=", "r", "l", "h", "v", "i", "Space", "1", "5", "o", "[", "]", "c", "m", "g", "x", "?"]:
        assert key in keys
    assert {"←", "→", "↑", "↓", ",", ".", "PgDn", "Enter"} <= set(keys)
    page.keyboard.press("g")
    assert shown(case)["grid"] is False
    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
        )
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("document.activeElement.id") == "open-help"


def test_keys_stay_away_from_fields_and_buttons(case):
    page = case.page
    page.click("#ask-question")
    page.keyboard.type("go = zig ?")
    assert page.input_value("#ask-question") == "go = zig ?"
    assert page.locator("dialog[open]").count() == 0 and shown(case)["grid"] is False
    page.fill("#ask-question", "")
    page.focus("#grid")
    page.keyboard.press(" ")
    assert shown(case)["grid"] is True
    page.keyboard.press("Enter")
    assert shown(case)["grid"] is False
    page.focus("#opacity")
    before = shown(case)["title"]
    page.keyboard.press("ArrowRight")
    assert shown(case)["title"] == before and shown(case)["opacity"] == pytest.approx(0.6)
    page.keyboard.press("Control+g")
    assert shown(case)["grid"] is False


SIGN = """(modifiers) => document.body.dispatchEvent(
  new KeyboardEvent("keydown", { key: "[", ctrlKey: true, altKey: true, bubbles: true, ...modifiers }))"""


def test_capslock_and_altgr(case):
    page = case.page
    page.keyboard.press("O")
    assert shown(case)["overlay"] is False
    page.keyboard.down("o")
    page.evaluate("document.body.dispatchEvent(new KeyboardEvent('keyup', { key: 'O', bubbles: true }))")
    assert shown(case)["overlay"] is True
    page.keyboard.up("o")
    page.keyboard.press("o")
    assert shown(case)["overlay"] is False
    page.evaluate(SIGN, {})
    assert shown(case)["opacity"] == pytest.approx(0.55)
    page.evaluate(SIGN, {"modifierAltGraph": True})
    assert shown(case)["opacity"] == pytest.approx(0.45)


def test_a_list_chosen_from_by_pointer_gives_the_keys_back(case):
    page = case.page
    choose = """(pointer) => {
      const select = document.getElementById("method");
      if (pointer) select.dispatchEvent(new PointerEvent("pointerdown", { bubbles: true }));
      select.focus();
      select.value = "chefer";
      select.dispatchEvent(new Event("change", { bubbles: true }));
      return document.activeElement === select;
    }"""
    assert page.evaluate(choose, False) is True
    assert page.evaluate(choose, True) is False
    page.keyboard.press("g")
    assert shown(case)["grid"] is True


def test_the_patch_cursor_takes_the_focus_and_stays_in_sight(case):
    page = case.page
    page.focus("#grid")
    page.keyboard.press("p")
    assert page.evaluate("document.activeElement.id") == "stage"
    page.keyboard.press("Enter")
    assert shown(case)["grid"] is False and page.locator("#clear-patches").count() == 1
    for _ in range(9):
        page.keyboard.press("+")
    before = case.pixels()
    page.keyboard.press("Shift+ArrowRight")
    assert case.pixels() != before
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    case.settle()
    place = page.evaluate(
        """() => {
          const canvas = document.querySelector("#stage .overlay");
          const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let white = 0;
          for (let i = 0; i < data.length; i += 4)
            white += data[i] === 255 && data[i + 1] === 255 && data[i + 2] === 255 && data[i + 3] === 255;
          return white;
        }"""
    )
    assert place > 20  # the dashes of the cursor


def test_the_help_page_lists_the_same_keys(case, visit, origin):
    """The table of the page is made from the keys themselves; that of the help page is written."""
    case.page.keyboard.press("?")
    keys = set(case.page.locator("dialog kbd").all_text_contents()) - {"…"}
    case.page.keyboard.press("Escape")
    found = visit(origin)
    found.open("/help")
    assert set(found.page.locator("#key-table kbd").all_text_contents()) == keys


def test_what_was_done_is_seen_for_a_moment(case):
    page = case.page
    page.keyboard.press("c")
    assert page.get_attribute("#said", "class") == "seen"
    assert page.locator("#said").bounding_box()["width"] > 80
    page.keyboard.press("ArrowDown")  # the legend tells it
    assert page.get_attribute("#said", "class") == "" and "layer 1" in case.said()


def test_everything_is_reached_by_tab(case):
    """Every control takes the focus in turn and shows it."""
    page = case.page
    page.evaluate("document.activeElement?.blur()")
    page.focus(".skip")
    reached = set()
    for _ in range(90):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => {
              const one = document.activeElement;
              const shows = one.matches("[type=radio].unseen") ? one.parentElement : one;
              return [one.id || one.name || one.className || one.tagName, getComputedStyle(shows).outlineStyle];
            }"""
        )
        assert outline != "none" or name == "BODY", name
        reached.add(name)
        if name == "BODY":
            break
    wanted = {
        "tool",
        "zoom-in",
        "rotate-left",
        "invert",
        "stage",
        "contrast",
        "overlay",
        "opacity",
        "colours",
        "view",
        "method",
    }
    assert wanted | {"coloured-by", "token", "ask-question", "open-help"} <= reached
