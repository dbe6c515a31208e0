import io

import pytest

from radvqa.run.progress import Progress, describe


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_lines_come_first_last_and_every_ten_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream=stream, clock=clock).track("align", 40, unit="updates") as advance:
        for step in range(40):
            clock.now += 1.0
            advance(note=f"loss {40 - step}")
    assert lines_of(stream) == [
        "align: 1 of 40 updates, loss 40, 1 updates/s, 0:00:39 left",
        "align: 11 of 40 updates, loss 30, 1 updates/s, 0:00:29 left",
        "align: 21 of 40 updates, loss 20, 1 updates/s, 0:00:19 left",
        "align: 31 of 40 updates, loss 10, 1 updates/s, 0:00:09 left",
        "align: 40 of 40 updates, loss 1, 1 updates/s, 0:00:40 taken",
    ]


def test_work_of_an_earlier_process_does_not_count_as_speed() -> None:
    assert (
        describe(60, 100, done=50, unit="images", note="", seconds=5.0) == "60 of 100 images, 2 images/s, 0:00:20 left"
    )
    assert describe(50, 100, done=50, unit="", note="", seconds=5.0) == "50 of 100"
    assert describe(0, 0, done=0, unit="images", note="", seconds=0.0) == "0 of 0 images"


def test_nothing_to_do_says_so_once() -> None:
    stream = io.StringIO()
    with Progress(stream=stream).track("predict", 10, done=10, unit="images"):
        pass
    assert lines_of(stream) == ["predict: 10 of 10 images"]


def test_an_error_passes_and_writes_no_last_line() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyError), Progress(stream=stream).track("align", 4) as advance:
        advance()
        advance()
        raise KeyError("x")
    assert len(lines_of(stream)) == 1


def test_quiet_is_silent() -> None:
    stream = io.StringIO()
    progress = Progress(True, stream=stream)
    progress.say("hello")
    with progress.track("align", 1) as advance:
        advance(note="x")
    assert stream.getvalue() == ""


def test_a_line_is_written_as_it_is() -> None:
    stream = io.StringIO()
    Progress(stream=stream).say("[bold]not markup[/bold] " + "x" * 200)
    assert lines_of(stream) == ["[bold]not markup[/bold] " + "x" * 200]


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_a_terminal_gets_bars_with_the_same_facts() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress(stream=stream, clock=clock)
    with progress.track("align", 2, unit="updates") as advance:
        clock.now = 1.0
        advance(note="loss 1")
        progress.say("[watch] inside")
        with progress.track("watch", 1, unit="images") as inner:
            inner()
        clock.now = 2.0
        advance(note="loss 0.5")
    text = stream.getvalue()
    assert "2 of 2 updates, loss 0.5, 1 updates/s" in text
    assert "[watch] inside" in text
    with progress.track("next", 1) as advance:
        advance()
    assert "1 of 1" in stream.getvalue()
