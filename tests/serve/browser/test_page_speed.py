"""Sliders answer within 100 ms at the real size of the embedded base; the first of 500 cases shows its picture in 1 s.

The best of several is taken, and more time allowed where more processes wait than the machine has processors.
"""

import os
import statistics

import pytest

LAYERS, HEADS = 30, 9

pytestmark = pytest.mark.slow


def allowed(limit: float) -> float:
    """A time limit of a machine of one's own, for this one now."""
    return limit * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


TIMED = """async ([selector, values]) => {
  const input = document.querySelector(selector);
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const times = [];
  for (const value of values) {
    await frame();
    const started = performance.now();
    input.value = String(value);
    input.dispatchEvent(new Event("input"));
    await frame(); // what was asked for is drawn in this frame, before this listener or after it
    input.getBoundingClientRect();
    const { port1, port2 } = new MessageChannel(); // a message comes after the frame is painted
    await new Promise((done) => { port1.onmessage = done; port2.postMessage(0); });
    times.push(performance.now() - started);
  }
  return times;
}"""


@pytest.fixture(scope="module")
def large(planted, serve_cases, open_tab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    (line, *_) = planted.planted_cases(folder, 1, layers=LAYERS, heads=HEADS)
    found = open_tab(serve_cases(folder))
    found.open(f"/case/s0/{line.key}")
    return found


@pytest.mark.parametrize(
    ("selector", "values"),
    [
        ("#opacity", [0.1, 0.3, 0.5, 0.7, 0.9, 0.4, 0.6]),
        ("#contrast", [110, 150, 200, 260, 320, 400, 500]),
        ("#brightness", [20, 35, 50, 65, 80, 45, 55]),
    ],
)
def test_sliders(large, selector, values):
    times = large.page.evaluate(TIMED, [selector, values])
    assert min(times) < allowed(100), times
    assert statistics.median(times) < allowed(200), times
    large.check()


def test_tokens_layers_and_patches(large):
    """The same for what computes most: all layers and heads of all tokens."""
    times = large.page.evaluate(
        """async () => {
          const frame = () => new Promise((done) => requestAnimationFrame(done));
          const times = { token: [], cell: [], patch: [] };
          const timed = async (name, act) => {
            await frame();
            const started = performance.now();
            act();
            await frame();
            times[name].push(performance.now() - started);
          };
          const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
          for (let i = 0; i < 5; i++) {
            await timed("token", () => document.querySelectorAll(".token")[2 + i].click());
            await timed("cell", () => press("ArrowDown"));
          }
          press("p");
          for (let i = 0; i < 5; i++) {
            press("ArrowRight");
            await timed("patch", () => press("Enter"));
          }
          return times;
        }"""
    )
    for name, found in times.items():
        assert min(found) < allowed(100), (name, found)
    large.check()


def test_five_hundred_cases(planted, serve_cases, visit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    lines = planted.planted_cases(folder, 500, layers=1, heads=1, methods=("raw",))
    found = visit(serve_cases(folder))
    found.open("/")
    assert "of 500 cases" in found.page.inner_text("#found")
    seconds = []
    for line in lines[100:103]:
        found.page.goto(f"{found.origin}/case/s0/{line.key}", wait_until="commit")
        found.page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
        found.page.wait_for_function("() => document.querySelector('#picture, #stage[data-ready]')")
        seconds.append(
            found.page.evaluate(
                """async () => {
                  const picture = document.querySelector("#picture");
                  if (picture) await picture.decode().catch(() => {});
                  const loaded = performance.getEntriesByType("resource").find((one) => one.name.includes("/image/"));
                  const painted = performance.getEntriesByName("first-contentful-paint")[0];
                  return Math.max(loaded.responseEnd, painted.startTime) / 1000;
                }"""
            )
        )
        found.page.wait_for_selector("#stage[data-ready]")
    assert min(seconds) < allowed(1.0), seconds
