"""New questions to a live model, and what is said where there is none."""

import pytest


def test_asking_the_live_model(visit, origin, case_paths, live_model):
    found = visit(origin)
    found.open(case_paths[0])
    page = found.page
    live_model.may_answer.clear()
    from radvqa.serve.live import LONGEST_ANSWER, LONGEST_QUESTION

    assert page.get_attribute("#ask-question", "maxlength") == str(LONGEST_QUESTION)
    assert page.get_attribute("#ask-answer", "maxlength") == str(LONGEST_ANSWER)
    page.fill("#ask-question", "Is the heart enlarged?")
    page.fill("#ask-answer", "Yes")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_selector("progress:visible")
    page.wait_for_function("() => /answering\\. \\d+ s/.test(document.querySelector('.told').textContent)")
    live_model.may_answer.set()
    page.wait_for_function("() => document.querySelector('#question').textContent === 'Is the heart enlarged?'")
    page.wait_for_selector("#panel .fact")
    assert live_model.asked[-1] == ("Is the heart enlarged?", "Yes")
    assert page.inner_text(".answer").startswith("Yes")
    page.wait_for_function("() => document.activeElement.matches('.answer')")
    assert "/case/s0/ask-" in page.url and page.title().startswith("Is the heart enlarged?")
    assert page.locator("#next").count() == 0 and case_paths[0] in page.get_attribute("#asked-of", "href")
    assert page.evaluate("document.querySelector('#panel').scrollTop") == 0
    assert page.locator(".legend").is_visible()


@pytest.mark.slow
def test_a_refused_question_is_told(visit, serve_cases, run, case_paths):
    def opening(_series):
        from radvqa.errors import RunError

        raise RunError("the weights are gone", fix="train again")

    found = visit(serve_cases(run, live=opening))
    found.expected = "the server responded with a status of 50"
    found.open(case_paths[0])
    page = found.page
    page.fill("#ask-question", "Is the heart enlarged?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".told.error")
    assert "the weights are gone" in page.inner_text(".told")


@pytest.mark.slow
def test_without_a_live_model(visit, serve_cases, run, case_paths):
    found = visit(serve_cases(run))
    found.open(case_paths[0])
    assert "--live" in found.page.inner_text("#panel")
    assert found.page.locator("#ask-question").count() == 0
