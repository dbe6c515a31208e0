"""Text of users on the Markdown page: it is shown as it is, and makes no markup of its own."""

import re

import pytest
from markdown_it import MarkdownIt

from radvqa.experiment.contents import Contents, MissingRun, Origin
from radvqa.experiment.markdown import code, markdown, plain
from radvqa.recipe import parse_experiment

HOSTILE = "# a\n\n- <script>alert(1)</script> [x](http://e.org) ![p](q) *b* _i_ `c` ``` | \\| &lt; ~~s~~ $x$"
ONE_LINE = " ".join(HOSTILE.split())


def html_of(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").render(text)


def text_of(html: str) -> str:
    shown = re.sub(r"<[^>]+>", "", html)
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        shown = shown.replace(entity, character)
    return shown.strip()


@pytest.mark.parametrize(
    "text", [HOSTILE, "- item", "1. item", "12) item", "+ a", "=== x", "> q", "---", "a_b c__d__e"]
)
def test_any_text_is_one_paragraph(text: str) -> None:
    html = html_of(plain(text))
    assert html.startswith("<p>")
    assert re.findall(r"<(?!/?p>)", html) == []
    assert text_of(html) == " ".join(text.split())


@pytest.mark.parametrize("text", ["radvqa run x.yaml", "a ` b", "`` a", "a|b", "a\\|b", "--set 'x=[<b>]'", HOSTILE])
def test_commands_stay_in_their_cell(text: str) -> None:
    html = html_of(f"| a | b |\n| --- | --- |\n| {code(text)} | {plain(text)} |")
    cells = re.findall(r"<td>(.*?)</td>", html)
    assert [text_of(cell) for cell in cells] == [" ".join(text.split())] * 2
    assert not re.search(r"<(?!/?code>)", "".join(cells))


def test_a_hostile_experiment_makes_an_ordinary_page() -> None:
    experiment = parse_experiment(
        {
            "name": "toy",
            "question": HOSTILE + "\n````\n## forged",
            "seeds": [1],
            "recipe": {
                "model": "tiny",
                "datasets": {"phantom": {"adapter": "phantom"}},
                "stages": [{"name": "align", "datasets": ["phantom"], "updates": 1}],
                "evaluate": {"dataset": "phantom"},
            },
            "cells": {"a": {}, "b": {"set": {"stages.align.updates": 2}}},
            "reference": "a",
            "trend": {"label": HOSTILE, "at": {"a": 0, "b": 1}},
        },
        where="toy.yaml",
    )
    contents = Contents(
        experiment=experiment,
        tables=(),
        missing=(MissingRun(cell="b", seed=1, why=f"failed: {HOSTILE}"),),
        levels={},
        effects=[],
        slopes=[],
        controls=[],
        shared=[],
        courses=[],
        origins=[Origin(cell="a", seed=1, folder="f", commands=(HOSTILE,), code=HOSTILE)],
    )
    text = markdown(
        contents,
        [f"“{HOSTILE}” changes"],
        figures={"trend.png": HOSTILE},
        command="radvqa experiment ```\n## forged",
        method="",
        unguarded="",
    )
    html = html_of(text)
    assert re.findall(r"<h[1-6]>(.*?)</h", html) == ["toy", "What follows", "Figures", "How it was made"]
    assert "<script" not in html
    assert "<a " not in html
    assert html.count("<img") == 1
    assert html.count("<pre>") == 2
    assert html.count("<tr>") == 2
