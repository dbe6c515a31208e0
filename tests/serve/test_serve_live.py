"""Questions to a live model, planted here: one at a time, bounded, failures told without paths."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from radvqa.errors import ModelError, RunError
from radvqa.serve.live import CASES_KEPT, LONGEST_QUESTION, pixels_of

JSON = {"Origin": "http://127.0.0.1:8000", "Content-Type": "application/json"}


class Planted:
    """A model that answers with the maps of the case it is asked about."""

    def __init__(self):
        self.opened, self.asked = [], []
        self.fault = None

    def __call__(self, series):
        self.opened.append(series.id)
        if isinstance(self.fault, RunError):
            raise self.fault

        def answering(case, question, answer):
            self.asked.append((question, answer))
            if self.fault is not None:
                raise self.fault
            view = case.manifest.views["model"]
            views = {"model": view} | ({"typed": replace(view, text=answer, correct=None)} if answer else {})
            names = ["attention", "attention_scale", "image_mass", "image_to_prompt"]
            names += [f"maps/{one.method}" for one in view.maps]
            arrays = {f"{to}/{name}": case.array(f"model/{name}") for to in views for name in names}
            return replace(case.manifest, question=question, references=(), views=views), arrays

        return answering


@pytest.fixture
def model():
    return Planted()


@pytest.fixture
def live(client, run, model):
    return client(run, live=model)


def ask(page, key, question="Is the heart enlarged?", *, series="s0", **more):
    body = {"series": series, "key": key, "question": question} | more
    return page.post("/api/ask", content=json.dumps(body), headers=JSON)


def test_a_question_becomes_a_case(live, key, model):
    before = live.get(f"/api/case/s0/{key}").json()
    assert before["live"] is True
    answer = ask(live, key, "  Is the\n heart   enlarged? ", answer="Yes")
    assert answer.status_code == 201
    case = answer.json()
    assert model.asked == [("Is the heart enlarged?", "Yes")]
    assert case["key"].startswith("ask-") and case["series"] == "s0" and case["asked_of"] == key
    assert case["question"] == "Is the heart enlarged?" and case["views"]["typed"]["text"] == "Yes"
    assert case["neighbours"] == {"previous": None, "next": None} and case["same_case"] == []
    assert case["back"] == f"/case/s0/{key}" and case["longest"] == {"question": 500, "answer": 500}
    assert live.get(f"/api/case/s0/{case['key']}").json() == case
    assert f'<a id="back" href="/case/s0/{key}">' in live.get(f"/case/s0/{case['key']}").text
    path = f"/api/case/s0/{case['key']}/typed"
    shape = case["views"]["typed"]["shape"]
    assert len(live.get(f"{path}/attention").content) == np.prod([shape[axis] for axis in "TLHrc"])
    assert live.get(f"{path}/maps").content == live.get(f"/api/case/s0/{key}/model/maps").content
    assert live.get(f"/image/s0/{case['key']}.png").content == live.get(f"/image/s0/{key}.png").content
    assert live.get(f"/case/s0/{case['key']}").status_code == 200
    assert "ask-" not in live.get("/api/cases").text
    assert live.get(f"/api/case/s1/{case['key']}").status_code == 404


def test_a_question_about_an_asked_case(live, key):
    first = ask(live, key).json()["key"]
    second = ask(live, first, "And the lungs?").json()
    assert second["asked_of"] == key


def test_the_model_is_loaded_once_and_changed_with_the_series(live, key, model):
    assert model.opened == []
    assert live.get("/api/live").json()["words"] == "The model is loaded at the first question."
    for series in ("s0", "s0", "s1", "s0"):
        assert ask(live, key, series=series).status_code == 201
    assert model.opened == ["s0", "s1", "s0"]


def test_the_last_cases_are_kept(live, key):
    keys = [ask(live, key).json()["key"] for _ in range(CASES_KEPT + 2)]
    status = [live.get(f"/api/case/s0/{one}").status_code for one in keys]
    assert status == [404, 404] + [200] * CASES_KEPT
    assert "ask it again" in live.get(f"/api/case/s0/{keys[0]}").json()["error"]
    assert ask(live, keys[0]).status_code == 404


def test_without_a_model(page, key):
    answer = ask(page, key)
    assert answer.status_code == 503
    assert "--live" in answer.json()["error"]
    assert page.get("/api/live").json()["state"] == "off"


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"question": "   "}, 422, "question is empty"),
        ({"question": "x" * (LONGEST_QUESTION + 1)}, 422, "at most 500 characters"),
        ({"question": "x" * LONGEST_QUESTION}, 201, None),
        ({"answer": "x" * 501}, 422, "answer is too long"),
        ({"answer": " "}, 422, "answer is empty"),
        ({"answer": None}, 201, None),
        ({"question": 7}, 422, "question"),
        ({"question": None}, 422, "question"),
        ({"key": "nothing"}, 404, "no such case"),
        ({"key": "../.."}, 404, "no such case"),
        ({"series": "s9"}, 404, "no such case"),
        ({"series": "__proto__"}, 404, "no such case"),
        ({"more": 1}, 422, "more"),
    ],
)
def test_what_can_be_asked(live, key, change, status, told):
    answer = live.post(
        "/api/ask", content=json.dumps({"series": "s0", "key": key, "question": "Why?"} | change), headers=JSON
    )
    assert answer.status_code == status
    assert told is None or told in answer.json()["error"]


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"x"', "\ud83d".encode("utf-8", "surrogatepass")])
def test_no_questions_at_all(live, body):
    assert live.post("/api/ask", content=body, headers=JSON).status_code == 422


def test_failures_are_told_without_paths(live, key, model, run):
    for fault in (
        RunError("not all stages are trained", where=str(run), fix=f"radvqa train {run}"),
        ModelError("the text holds a mark of the model", where=str(run), got="<image>"),
    ):
        model.fault = fault
        answer = ask(live, key)
        assert answer.status_code == 503
        assert fault.what in answer.json()["error"]
        assert str(run.parent) not in answer.text
        assert live.get("/api/live").json()["state"] == "failed"
    model.fault = None
    assert ask(live, key).status_code == 201
    assert live.get("/api/live").json()["state"] == "idle"


def test_a_crash_of_the_model_does_not_end_the_page(live, key, model, caplog):
    model.fault = RuntimeError("CUDA error at /secret/place")
    answer = ask(live, key)
    assert answer.status_code == 503
    assert "RuntimeError" in answer.json()["error"] and "/secret" not in answer.text
    assert "the live model failed" in caplog.text
    model.fault = None
    assert ask(live, key).status_code == 201


def test_one_question_at_a_time(client, run, key):
    began, go_on = threading.Event(), threading.Event()
    model = Planted()

    def opening(series):
        began.set()
        assert go_on.wait(30)
        return model(series)

    page = client(run, live=opening)
    first = []
    thread = threading.Thread(target=lambda: first.append(ask(page, key)))
    thread.start()
    assert began.wait(30)
    assert page.get("/api/live").json() == {
        "live": True, "state": "loading", "words": "The model is being loaded; the first question takes longer."
    }  # fmt: skip
    second = ask(page, key)
    assert second.status_code == 503 and "loaded" in second.json()["error"]
    assert page.get(f"/api/case/s0/{key}").status_code == 200  # the page answers meanwhile
    go_on.set()
    thread.join(30)
    assert first[0].status_code == 201
    assert ask(page, key).status_code == 201


def test_series_that_are_no_run_are_not_live(client, hostile, run):
    page = client(hostile, run, live=Planted())
    for number, expected in ((0, False), (1, True)):
        key = page.app.state.cases.series[number].listing().lines[0].key
        assert page.get(f"/api/case/s{number}/{key}").json()["live"] is expected


def test_pixels_of_a_case(live, key, run):
    from radvqa.explain.bundle_files import case_folder, read_bundle

    bundle = read_bundle(case_folder(run / "explain", key))
    assert np.array_equal(pixels_of(bundle), bundle.pixels)
