"""The page in a real browser: Debian's Chromium, driven by Playwright; skipped where either is missing."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--no-first-run")
WINDOW = {"width": 1440, "height": 900}


@dataclass
class Visit:
    """A tab on a server, and what it did that it should not do."""

    page: Any
    origin: str
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    expected: str = "\0"
    """What a message of the console may hold without being a fault."""

    def open(self, path: str) -> None:
        """Go to a page of the server; of a case wait until its map and its attention are there."""
        self.page.goto(self.origin + path)
        if path.startswith("/case/"):
            self.page.wait_for_selector(".matrix [aria-pressed='true']")
            self.page.wait_for_selector("#stage[data-ready]")
        if path.startswith("/compare"):
            self.page.wait_for_selector("#stage-a[data-ready]")
            self.page.wait_for_selector("#side-b .fact", state="attached")

    def said(self) -> str:
        """What the live region says."""
        return self.page.text_content("#said").replace("\u00a0", "").strip()

    def pixels(self, selector: str = "#stage .overlay") -> str:
        """What a canvas shows, as something that can be compared, once the next frame is drawn."""
        self.settle()
        return self.page.evaluate("(s) => document.querySelector(s).toDataURL()", selector)

    def settle(self) -> None:
        """Two frames."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def reset(self) -> None:
        """A case as it was when it was opened."""
        self.page.mouse.move(0, 0)
        self.page.evaluate(RESET)
        for key in ("Escape", "Escape", "Escape", " "):
            self.page.keyboard.press(key)
        self.settle()

    def check(self) -> None:
        """Nothing left the host, and nothing went wrong in the console."""
        faults, self.faults = self.faults, []
        assert [fault for fault in faults if self.expected not in fault] == []


RESET = """() => {
  document.activeElement?.blur();
  const on = (id, wanted) => document.querySelector(`#${id}[aria-pressed="${!wanted}"]:not(:disabled)`)?.click();
  document.querySelector("[name=view][value=model]:not(:checked)")?.click();
  for (const id of ["overlay", "smooth", "outlines"]) on(id, true);
  for (const id of ["grid", "shared", "against"]) on(id, false);
  const choose = (id, value) => {
    const select = document.getElementById(id);
    if (!select || select.value === value) return;
    select.value = value;
    select.dispatchEvent(new Event(select.matches("select") ? "change" : "input"));
  };
  choose("method", "raw");
  choose("colours", "inferno");
  choose("coloured-by", "usual");
  choose("opacity", "0.55");
  document.getElementById("panel").scrollTop = 0;
}"""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if CHROMIUM is None:
        pytest.skip("needs a Chromium browser on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def _serving(app: Any) -> Iterator[str]:
    """An application on a free port of the loopback address."""
    import socket

    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


@pytest.fixture(scope="session")
def serve_cases() -> Iterator[Callable[..., str]]:
    """Serves sources until the end of the session: ``serve_cases(folder, live=...)`` gives the address."""
    pytest.importorskip("uvicorn", reason="needs the optional packages of radvqa[serve]")
    from contextlib import ExitStack

    from radvqa.serve.app import create_app

    with ExitStack() as stack:
        yield lambda *sources, **settings: stack.enter_context(_serving(create_app(sources, **settings)))


@pytest.fixture(scope="session")
def open_tab(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """Opens a tab: ``open_tab(origin)``; tabs stay open until the end of the session."""
    contexts = []

    def opened(origin: str, *, window: dict[str, int] = WINDOW, **settings: Any) -> Visit:
        # Without motion nothing has to be waited for.
        context = chromium.new_context(viewport=window, **{"reduced_motion": "reduce", **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90_000)
        found = Visit(page=page, origin=origin)

        def requested(request: Any) -> None:
            found.requests.append(request.url)
            if not request.url.startswith((f"{origin}/", "blob:", "data:")):
                found.faults.append(f"left the host: {request.url}")

        page.on("request", requested)
        page.on("console", lambda one: one.type in ("error", "warning") and found.faults.append(one.text))
        page.on("pageerror", lambda error: found.faults.append(str(error)))
        page.on("dialog", lambda dialog: (found.faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
        return found

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def visit(open_tab: Callable[..., Visit]) -> Iterator[Callable[..., Visit]]:
    """A tab of a test's own: ``visit(origin)``. At the end nothing may have left the host or gone wrong."""
    made = []

    def opened(origin: str, **settings: Any) -> Visit:
        made.append(open_tab(origin, **settings))
        return made[-1]

    yield opened
    for one in made:
        one.check()
        one.page.context.close()


@pytest.fixture(scope="session")
def first_case(open_tab: Callable[..., Visit], origin: str, case_paths: list[str]) -> Visit:
    """A tab with the first case, opened once: opening takes longer than any test."""
    found = open_tab(origin)
    found.open(case_paths[0])
    return found


@pytest.fixture
def case(first_case: Visit, case_paths: list[str]) -> Iterator[Visit]:
    """The first case, as it is when it is opened: its own and the reference answer, regions, 8 bits."""
    if not first_case.page.url.endswith(case_paths[0]):
        first_case.open(case_paths[0])
    first_case.reset()
    yield first_case
    first_case.check()


class PlantedModel:
    """A live model that answers with the maps of the case it is asked about, when it is let."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, _series: Any) -> Callable[..., Any]:
        def answering(case: Any, question: str, answer: str | None) -> Any:
            self.asked.append((question, answer))
            self.may_answer.wait(20)
            view = case.manifest.views["model"]
            views = {"model": view} | ({"typed": replace(view, text=answer, correct=None)} if answer else {})
            names = ["attention", "attention_scale", "image_mass", "image_to_prompt"]
            names += [f"maps/{one.method}" for one in view.maps]
            arrays = {f"{to}/{name}": case.array(f"model/{name}") for to in views for name in names}
            return replace(case.manifest, question=question, references=(), views=views), arrays

        return answering


@pytest.fixture(scope="session")
def live_model() -> PlantedModel:
    return PlantedModel()


@pytest.fixture(scope="session")
def origin(run: Path, serve_cases: Callable[..., str], live_model: PlantedModel) -> str:
    """A server with twelve small cases, two other stages and a live model."""
    return serve_cases(run, live=live_model)


@pytest.fixture(scope="session")
def case_paths(run: Path) -> list[str]:
    """The addresses of the cases. 0: two views, regions; 1: Hounsfield units; 3: a reference of several words."""
    from radvqa.explain.bundle_files import read_cases

    return [f"/case/s0/{line.key}" for line in read_cases(run / "explain")]
