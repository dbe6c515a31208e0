"""Texts of a data set that attack the page do nothing: they are shown as they are."""


def inert(found):
    assert found.page.evaluate("window.hacked") is None
    assert found.page.locator("script:not([src])").count() == 0
    assert found.page.locator("[onerror], [onload], [onclick], img[src=x]").count() == 0
    assert found.page.evaluate("({}).polluted") is None


def test_hostile_texts_are_inert(visit, hostile, serve_cases):
    from radvqa.explain.bundle_files import read_cases

    origin = serve_cases(hostile)
    found = visit(origin)
    keys = [line.key for line in read_cases(hostile)]
    for path in ("/", "/failures", "/?q=%3Cscript%3Ewindow.hacked%3D1%3C%2Fscript%3E"):
        found.open(path)
        inert(found)
    found.open(f"/case/s0/{keys[0]}")
    page = found.page
    assert "<script>" in page.inner_text("#question")
    page.click("text=About this case")
    assert "__proto__" in page.inner_text(".about")
    for token in page.locator(".token").all()[:8]:
        token.click()
    page.keyboard.press("m")
    page.keyboard.press("m")
    inert(found)
    found.open(f"/compare?a=s0/{keys[0]}&b=s0/{keys[0]}")
    page.locator(".token").first.click()
    inert(found)


def test_an_injected_script_would_not_run(case):
    """The policy itself, not only the escaping: an inline script put into the page stays dead."""
    blocked = case.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.hacked = 1";
          document.body.append(script);
          script.remove();
          return window.hacked === undefined;
        }"""
    )
    assert blocked
    case.page.wait_for_timeout(50)
    assert any("Content Security Policy" in fault for fault in case.faults)
    case.faults.clear()
