"""axe-core finds nothing serious on any page; motion and colour are not needed to read it."""

from pathlib import Path

import pytest

RULES = {"resultTypes": ["violations"]}


@pytest.fixture(scope="session")
def axe():
    package = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python, which brings axe-core")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def violations(page, axe):
    page.evaluate(axe)
    found = page.evaluate("(rules) => axe.run(document, rules)", RULES)["violations"]
    return [
        f"{one['id']} ({one['impact']}): {node['target']} {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def test_list_failures_and_help(visit, origin, axe):
    found = visit(origin)
    for path in ("/", "/failures", "/help"):
        found.open(path)
        assert violations(found.page, axe) == [], path


def test_case_with_its_states(case, axe):
    page = case.page
    assert violations(page, axe) == []
    page.locator(".tokens >> nth=0 >> .token >> nth=4").click()
    page.select_option("#coloured-by", "reliance")
    page.locator(".matrix [data-layer='1'][data-head='0']").click()
    page.click("text=About this case")
    assert violations(page, axe) == []
    page.keyboard.press("?")
    assert violations(page, axe) == []
    page.keyboard.press("Escape")
    page.click("text=About this case")


def test_compare(visit, origin, case_paths, axe):
    series, key = case_paths[0].split("/")[2:]
    found = visit(origin)
    found.open(f"/compare?a={series}/{key}&b=s1/{key}")
    assert violations(found.page, axe) == []


def test_changes_are_told(case):
    page = case.page
    region = page.locator("#said")
    assert region.get_attribute("aria-live") == "polite"
    page.select_option("#method", "chefer")
    assert case.said().startswith("Map of the whole answer: chefer. Highest in row ")
    assert "chefer" in page.get_attribute("#stage", "aria-label")


def test_reduced_motion(case):
    seconds = case.page.evaluate(
        """async () => {
          const { reducedMotion } = await import("/static/viewer.js");
          return [reducedMotion(), getComputedStyle(document.body).transitionDuration];
        }"""
    )
    assert seconds == [True, "0s"]
