import asyncio
import gc
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback_endpoint import REPLY, LoopbackEndpoint, completion, mixed

from radvqa.errors import ModelError, RecipeError
from radvqa.llm import Failure, Message, Outcome, Reply, Request, Sampling
from radvqa.llm.endpoint import EndpointModel
from radvqa.llm.retry import Backoff, Throttle, retry_after_seconds

KEY = 'sk-secret/1234567890"quoted'
SCHEMA = {"type": "object", "properties": {"pairs": {"type": "array"}}}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Every test ends its threads. A socket that is left warns when it is collected, which is an error."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) - before == set()


@pytest.fixture(autouse=True, scope="module")
def all_is_collected() -> Iterator[None]:
    yield
    gc.collect()


def requests(count: int, *, schema: Any = None) -> list[Request]:
    return [
        Request(key=f"r{number}", messages=(Message(role="user", content=f"say r{number}"),), schema=schema)
        for number in range(count)
    ]


def model(endpoint: LoopbackEndpoint | str, *, said: list[str] | None = None, **settings: Any) -> EndpointModel:
    settings = {"max_backoff_seconds": 0.01, "timeout_seconds": 5, "model": "tiny", "api_key": KEY, **settings}
    settings.setdefault("sampling", Sampling(max_tokens=64))
    url = endpoint if isinstance(endpoint, str) else endpoint.url
    return EndpointModel(url=url, say=[].append if said is None else said.append, **settings)


def ask(behaviour: str, **settings: Any) -> Outcome:
    with LoopbackEndpoint(behaviour) as endpoint:
        (outcome,) = model(endpoint, **settings).complete(requests(1))
    return outcome


def refusal(behaviour: str, *, schema: Any = None, **settings: Any) -> str:
    with LoopbackEndpoint(behaviour) as endpoint, pytest.raises(ModelError) as error:
        list(model(endpoint, **settings).complete(requests(5, schema=schema)))
    assert "secret" not in str(error.value)
    return str(error.value)


def test_a_request_becomes_a_reply() -> None:
    with LoopbackEndpoint("well", latency=0.02) as endpoint:
        sampling = Sampling(temperature=0.5, top_p=0.9, seed=3, max_tokens=64)
        (outcome,) = model(endpoint, sampling=sampling).complete(requests(1, schema=SCHEMA))
    assert isinstance(outcome, Reply)
    assert (outcome.key, outcome.text, outcome.finished, outcome.attempts) == ("r0", REPLY, True, 1)
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (11, 7)
    assert 0.02 <= outcome.seconds < 1
    (body,) = endpoint.bodies
    assert body["messages"] == [{"role": "user", "content": "say r0"}]
    assert (body["model"], body["temperature"], body["top_p"], body["seed"]) == ("tiny", 0.5, 0.9, 3)
    assert (body["max_tokens"], body["stream"]) == (64, False)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert f"authorization: bearer {KEY}".lower() in endpoint.headers[0].lower()


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        ("parts", REPLY),
        ("reasoning", REPLY),
        ("preamble", 'Sure! Here are the pairs:\n```json\n{"pairs": []}\n```'),
        ("wrong_schema", '{"colour": "blue"}'),
        ("chinese", "肝脏肿大。"),
        ("no_usage", REPLY),
        ("slow:0.05", REPLY),
    ],
)
def test_text_is_handed_on_as_it_is(behaviour: str, text: str) -> None:
    outcome = ask(behaviour)
    assert isinstance(outcome, Reply)
    assert (outcome.text, outcome.finished, outcome.attempts) == (text, True, 1)


def test_a_reply_that_was_cut_is_not_finished() -> None:
    outcome = ask("cut")
    assert isinstance(outcome, Reply)
    assert (outcome.text, outcome.finished) == ("The liver is", False)


@pytest.mark.parametrize("behaviour", ["no_usage", "odd_usage"])
def test_usage_that_is_not_told_is_no_tokens(behaviour: str) -> None:
    outcome = ask(behaviour)
    assert isinstance(outcome, Reply)
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (0, 0)


FAILURES = {
    "status:500": ("server_error", 3),
    "status:502": ("server_error", 3),
    "status:503": ("server_error", 3),
    "status:429": ("rate_limited", 3),
    "status:408": ("timeout", 3),
    "retry_after:0": ("rate_limited", 3),
    "status:400": ("refused_request", 1),
    "status:413": ("refused_request", 1),
    "status:422": ("refused_request", 1),
    "status:501": ("refused_request", 1),
    "too_long": ("refused_request", 1),
    "closed": ("connection", 3),
    "closed_midway": ("connection", 3),
    "no_http": ("connection", 3),
    "huge_header": ("connection", 3),
    "truncated": ("malformed_response", 3),
    "html": ("malformed_response", 3),
    "no_choices": ("malformed_response", 3),
    "wrong_types": ("malformed_response", 3),
    "content_number": ("malformed_response", 3),
    "deep": ("malformed_response", 3),
    "surrogate": ("malformed_response", 3),
    "not_utf8": ("malformed_response", 3),
    "bad_gzip": ("malformed_response", 3),
    "event_stream": ("malformed_response", 3),
    "status:204": ("malformed_response", 3),
    "empty": ("empty_reply", 2),
    "null": ("empty_reply", 2),
    "endless": ("endless_output", 1),
}


@pytest.mark.parametrize("behaviour", FAILURES)
def test_misbehaviour_is_a_failure_with_a_reason(behaviour: str) -> None:
    reason, attempts = FAILURES[behaviour]
    with LoopbackEndpoint(behaviour) as endpoint:
        (outcome,) = model(endpoint, attempts=3).complete(requests(1))
        assert isinstance(outcome, Failure)
        assert (outcome.key, outcome.reason, outcome.attempts) == ("r0", reason, attempts), outcome.detail
        assert outcome.detail
        assert "\n" not in outcome.detail
        assert endpoint.behaviours.total() == attempts
        assert endpoint.open_connections() == 0


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("hang", "timeout"), ("drip:blank", "timeout"), ("drip:a", "endless_output")],
)
def test_the_timeout_holds_for_the_whole_attempt(behaviour: str, reason: str) -> None:
    with LoopbackEndpoint(behaviour) as endpoint:
        start = time.monotonic()
        (outcome,) = model(endpoint, attempts=1, timeout_seconds=0.3).complete(requests(1))
        assert time.monotonic() - start < 1.5
        assert isinstance(outcome, Failure)
        assert outcome.reason == reason
        assert outcome.seconds >= 0.3
        assert endpoint.open_connections() == 0


def test_output_without_end_is_not_read_for_long() -> None:
    outcome = ask("endless", timeout_seconds=60)
    assert outcome.seconds < 5
    assert isinstance(outcome, Failure)
    assert "more than 69,632 bytes, which 64 tokens cannot fill" in outcome.detail


def test_output_without_end_is_hung_up_on() -> None:
    with LoopbackEndpoint(lambda number, body: "endless" if number < 10 else "well", latency=0.01) as endpoint:
        for taken, _ in enumerate(model(endpoint, concurrency=2).complete(requests(40))):
            assert taken < 20 or len(endpoint.connections) <= 2


def test_a_port_where_nothing_listens_is_a_connection_failure() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    (outcome,) = model(url, attempts=2).complete(requests(1))
    assert isinstance(outcome, Failure)
    assert (outcome.reason, outcome.attempts) == ("connection", 2)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("unauthorized", "API key"),
        ("status:402", "account"),
        ("status:403", "API key"),
        ("status:404", "/v1"),
        ("status:405", "/v1"),
        ("redirect", "redirects are not followed"),
    ],
)
def test_what_every_request_would_meet_ends_the_asking(behaviour: str, words: str) -> None:
    message = refusal(behaviour)
    assert "refuses all requests" in message
    assert words in message


@pytest.mark.parametrize("behaviour", ["status:403", "status:500"])
def test_nothing_more_is_sent_once_the_asking_is_over(behaviour: str) -> None:
    """Even while the caller is busy with the outcomes before."""

    def choose(number: int, body: dict[str, Any]) -> str:
        return "well" if number == 0 else behaviour

    with LoopbackEndpoint(choose, latency=0.01) as endpoint, pytest.raises(ModelError):
        for _ in model(endpoint, concurrency=2, breaker_failures=1).complete(requests(100)):
            time.sleep(0.2)
    assert endpoint.behaviours.total() <= 4


def test_the_key_is_shown_nowhere() -> None:
    assert "[API key]" in refusal("unauthorized")
    with LoopbackEndpoint("echo") as endpoint:
        asked = Request(key="r", messages=(Message(role="user", content=f"repeat {KEY}"),))
        (outcome,) = model(endpoint).complete([asked])
        assert isinstance(outcome, Reply)
        assert outcome.text == "repeat [API key]"
        endpoint.models = {"data": [{"id": "tiny", "owned_by": KEY}]}
        assert "secret" not in str(model(endpoint).identity)


def test_a_short_key_is_no_secret() -> None:
    with LoopbackEndpoint("echo") as endpoint:
        asked = Request(key="r", messages=(Message(role="user", content="none seen"),))
        (outcome,) = model(endpoint, api_key="none").complete([asked])
    assert isinstance(outcome, Reply)
    assert outcome.text == "none seen"


def test_https_where_http_is_spoken_is_a_connection_failure() -> None:
    with LoopbackEndpoint() as endpoint:
        (outcome,) = model(endpoint.url.replace("http:", "https:"), attempts=1).complete(requests(1))
    assert isinstance(outcome, Failure)
    assert outcome.reason == "connection"
    assert "SSL" in outcome.detail


def test_retry_after_quiets_all_requests() -> None:
    def choose(number: int, body: dict[str, Any]) -> str:
        return "retry_after:0.4" if number == 3 else "well"

    with LoopbackEndpoint(choose, latency=0.01) as endpoint:
        outcomes = list(model(endpoint, concurrency=4, max_backoff_seconds=1).complete(requests(20)))
    assert all(isinstance(one, Reply) for one in outcomes)
    gaps = [after - before for before, after in zip(endpoint.times, endpoint.times[1:], strict=False)]
    quiet = max(gaps)
    assert quiet >= 0.35
    # What was under way is answered; nothing new is sent before the pause is over.
    assert 3 <= gaps.index(quiet) <= 3 + 4


def test_retry_after_is_bounded() -> None:
    start = time.monotonic()
    outcome = ask("busy:86400", attempts=3, max_backoff_seconds=0.05)
    assert isinstance(outcome, Failure)
    assert outcome.reason == "server_error"
    assert 0.1 <= time.monotonic() - start < 2


NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        ("Sat, 01 Mar 2025 12:00:30 -0000", 30.0),
        ("Sat, 01 Mar 2025 11:00:00 GMT", 0.0),
        ("Sat, 99 Mar 2025 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_read(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, now=NOW) == seconds


@given(st.text())
def test_any_retry_after_is_read_or_ignored(value: str) -> None:
    seconds = retry_after_seconds(value, now=NOW)
    assert seconds is None or seconds >= 0


@given(st.integers(0, 1000), st.integers(1, 2000), st.floats(0, 300))
def test_waits_are_jittered_and_bounded(seed: int, failures: int, longest: float) -> None:
    backoff = Backoff(longest_seconds=longest, seed=seed)
    wait = backoff.seconds(failures)
    assert 0 <= wait <= min(longest, 0.5 * 2 ** min(failures - 1, 100))
    assert wait == Backoff(longest_seconds=longest, seed=seed).seconds(failures)


@pytest.mark.parametrize("concurrency", [1, 3, 16])
def test_no_more_requests_are_under_way_than_allowed(concurrency: int) -> None:
    with LoopbackEndpoint("well", latency=0.01) as endpoint:
        outcomes = list(model(endpoint, concurrency=concurrency).complete(requests(60)))
    assert len(outcomes) == 60
    assert endpoint.most_active == concurrency


def test_requests_are_drawn_as_there_is_room() -> None:
    drawn = 0

    def source() -> Iterator[Request]:
        nonlocal drawn
        for request in requests(100):
            drawn += 1
            yield request

    with LoopbackEndpoint("well") as endpoint:
        for taken, _ in enumerate(model(endpoint, concurrency=4).complete(source())):
            assert drawn <= taken + 16
    assert drawn == 100


def test_an_endpoint_that_takes_fewer_at_a_time_loses_nothing() -> None:
    """It answers "too many" to all beyond three."""
    with LoopbackEndpoint(latency=0.01) as endpoint:
        endpoint.choose = lambda number, body: "status:429" if endpoint.active >= 3 else "well"
        outcomes = list(model(endpoint, concurrency=16, attempts=20, max_backoff_seconds=0.1).complete(requests(60)))
    assert all(isinstance(one, Reply) for one in outcomes)


MODES = {
    "status:500": 0.1,
    "closed": 0.1,
    "closed_midway": 0.05,
    "truncated": 0.05,
    "html": 0.05,
    "empty": 0.05,
    "retry_after:0.01": 0.05,
    "status:400": 0.05,
    "endless": 0.02,
    "no_http": 0.03,
    "hang": 0.02,
    "cut": 0.05,
}


@pytest.mark.parametrize("seed", range(6))
def test_every_request_gets_one_outcome(seed: int) -> None:
    draw = random.Random(seed)
    shares = {mode: share * draw.choice([0, 1, 2]) for mode, share in MODES.items()}
    with LoopbackEndpoint(mixed(shares, seed=seed)) as endpoint:
        asked = requests(draw.randrange(40, 120))
        made = model(
            endpoint,
            concurrency=draw.choice([1, 3, 8, 20]),
            attempts=draw.choice([1, 2, 5]),
            timeout_seconds=0.25,
            breaker_failures=1000,
        )
        outcomes = list(made.complete(asked))
        assert Counter(one.key for one in outcomes) == Counter(one.key for one in asked)
        assert endpoint.behaviours.total() == sum(one.attempts for one in outcomes)
        assert endpoint.open_connections() == 0
    # Each failed attempt that the endpoint made is found in the account of attempts.
    good = sum(endpoint.behaviours[mode] for mode in ("well", "cut"))
    assert sum(isinstance(one, Reply) for one in outcomes) == good


def test_requests_with_one_key_each_get_an_outcome() -> None:
    with LoopbackEndpoint() as endpoint:
        outcomes = list(model(endpoint).complete(requests(1) * 5))
    assert [one.key for one in outcomes] == ["r0"] * 5


def test_nothing_asked_is_nothing_answered() -> None:
    with LoopbackEndpoint() as endpoint:
        assert list(model(endpoint).complete([])) == []


def test_an_endpoint_that_stays_down_is_given_up() -> None:
    said: list[str] = []
    with LoopbackEndpoint(lambda number, body: "well" if number < 10 else "status:500") as endpoint:
        got: list[Outcome] = []
        with pytest.raises(ModelError, match="given up after 20 failed requests in a row") as error:
            for outcome in model(endpoint, said=said, attempts=4).complete(requests(100)):
                got.append(outcome)
    assert "server_error: status 500" in str(error.value)
    assert "finished replies are kept" in str(error.value)
    assert sum(isinstance(one, Reply) for one in got) == 10
    (warning,) = said
    assert "one request at a time" in warning
    # Ten failures, what was under way then, and ten more one by one.
    assert 10 + 20 <= endpoint.behaviours.total() <= 10 + 20 + 8


def test_an_endpoint_that_recovers_is_asked_on() -> None:
    said: list[str] = []
    most_while_down = 0

    def choose(number: int, body: dict[str, Any]) -> str:
        nonlocal most_while_down
        # Late answers, ten failures and what was under way then, three each at most; from then on one at a time.
        if 46 <= number <= 49:
            most_while_down = max(most_while_down, endpoint.active)
        return "closed" if 30 <= number < 49 else "well"

    with LoopbackEndpoint(choose, latency=0.01) as endpoint:
        outcomes = list(model(endpoint, said=said, concurrency=3, attempts=20).complete(requests(80)))
    assert all(isinstance(one, Reply) for one in outcomes)
    assert most_while_down == 0
    assert endpoint.most_active == 3
    assert [line.split(";")[0].split(",")[0] for line in said] == [
        "the endpoint failed 10 times in a row",
        "the endpoint answers again",
    ]


def test_probes_wait_longer_and_longer() -> None:
    with (
        LoopbackEndpoint("closed") as endpoint,
        pytest.raises(ModelError, match="given up after 8"),
    ):
        list(model(endpoint, concurrency=1, breaker_failures=8, max_backoff_seconds=0.6).complete(requests(9)))
    gaps = [after - before for before, after in zip(endpoint.times, endpoint.times[1:], strict=False)]
    assert all(gap >= 0.45 for gap in gaps[3:])


def test_settings_that_no_request_survives_are_told_soon() -> None:
    assert "given up after 4 failed" in refusal("status:400", breaker_failures=4)


def test_refusals_between_answers_do_not_end_the_asking() -> None:
    with LoopbackEndpoint(lambda number, body: "well" if number == 0 else "too_long") as endpoint:
        outcomes = list(model(endpoint, concurrency=1, breaker_failures=4).complete(requests(30)))
    assert Counter(type(one) for one in outcomes) == {Reply: 1, Failure: 29}


def test_failures_that_were_under_way_together_count_once() -> None:
    """Thirty at once fail in one incident; that alone does not give the endpoint up."""
    with LoopbackEndpoint(lambda number, body: "closed" if number < 30 else "well", latency=0.02) as endpoint:
        outcomes = list(model(endpoint, concurrency=30).complete(requests(60)))
    assert all(isinstance(one, Reply) for one in outcomes)


@pytest.mark.parametrize(("known", "settled"), [("json_object", "json_object"), ("none", "none")])
def test_less_is_asked_for_where_a_schema_is_refused_and_told_once(known: str, settled: str) -> None:
    said: list[str] = []
    with LoopbackEndpoint(f"no_schema:{known}") as endpoint:
        asked = model(endpoint, said=said)
        outcomes = list(asked.complete(requests(40, schema=SCHEMA)))
        facts = asked.identity.facts
    assert all(isinstance(one, Reply) for one in outcomes)
    assert len(said) == 1
    assert facts["structured_output"] == said[0]
    assert said[0].startswith(f"{settled}: the endpoint refuses json_schema")
    assert "must not be json_" in said[0]
    assert endpoint.bodies[-1].get("response_format", {"type": "none"})["type"] == settled
    refused = [body for body in endpoint.bodies if body.get("response_format", {}).get("type") == "json_schema"]
    assert len(refused) <= 40
    assert max(one.attempts for one in outcomes) == (2 if known == "json_object" else 3)


def test_a_schema_that_is_held_to_is_noted() -> None:
    said: list[str] = []
    with LoopbackEndpoint() as endpoint:
        asked = model(endpoint, said=said)
        list(asked.complete(requests(2, schema=SCHEMA)))
        assert asked.identity.facts["structured_output"] == "json_schema"
    assert said == []


def test_one_request_that_is_refused_for_itself_does_not_cost_the_others_the_schema() -> None:
    def choose(number: int, body: dict[str, Any]) -> str:
        return "too_long" if body["messages"][0]["content"] == "say r3" else "well"

    with LoopbackEndpoint(choose) as endpoint:
        asked = model(endpoint)
        outcomes = {one.key: one for one in asked.complete(requests(20, schema=SCHEMA))}
        assert asked.identity.facts["structured_output"] == "json_schema"
    bad = outcomes.pop("r3")
    assert isinstance(bad, Failure)
    assert bad.reason == "refused_request"
    assert all(isinstance(one, Reply) for one in outcomes.values())
    assert endpoint.bodies[-1]["response_format"]["type"] == "json_schema"


def test_a_required_schema_that_is_refused_is_an_error() -> None:
    message = refusal("no_schema", schema=SCHEMA, json_schema="require")
    assert "does not hold replies to a JSON schema" in message


def test_no_schema_is_sent_where_it_is_off() -> None:
    with LoopbackEndpoint("no_schema") as endpoint:
        list(model(endpoint, json_schema="off").complete(requests(3, schema=SCHEMA)))
    assert all("response_format" not in body for body in endpoint.bodies)


@pytest.mark.parametrize("behaviour", ["well", "hang", "status:500", "drip:a", "endless"])
def test_closing_early_ends_everything(behaviour: str) -> None:
    with LoopbackEndpoint(lambda number, body: "well" if number == 0 else behaviour, latency=0.01) as endpoint:
        outcomes = model(endpoint, max_backoff_seconds=60, timeout_seconds=60).complete(requests(200))
        next(outcomes)
        start = time.monotonic()
        outcomes.close()
        assert time.monotonic() - start < 1
        assert endpoint.open_connections() == 0
        assert [one.name for one in threading.enumerate() if "radvqa" in one.name] == []


def test_an_iterator_that_nobody_keeps_ends_everything() -> None:
    with LoopbackEndpoint(latency=0.01) as endpoint:
        next(model(endpoint).complete(requests(100)))
        gc.collect()
        assert endpoint.open_connections() == 0


def test_a_model_that_is_closed_answers_no_more() -> None:
    with LoopbackEndpoint(lambda number, body: "well" if number == 0 else "hang") as endpoint:
        asked = model(endpoint)
        outcomes = asked.complete(requests(20))
        next(outcomes)
        asked.close()
        assert endpoint.open_connections() == 0
        with pytest.raises(ModelError, match="was closed"):
            next(outcomes)
        with pytest.raises(ModelError, match="was closed"):
            next(asked.complete(requests(1)))
        asked.close()


def test_an_error_of_the_source_passes_through() -> None:
    def source() -> Iterator[Request]:
        yield from requests(3)
        raise ZeroDivisionError

    with LoopbackEndpoint() as endpoint, pytest.raises(ZeroDivisionError):
        list(model(endpoint).complete(source()))


def test_an_error_of_ours_reaches_the_caller() -> None:
    broken = Request(key="b", messages=(Message(role="user", content=object()),))  # type: ignore[arg-type]
    with LoopbackEndpoint() as endpoint, pytest.raises(TypeError, match="not JSON serializable"):
        list(model(endpoint).complete([broken]))


def test_it_works_inside_a_running_event_loop() -> None:
    async def inside() -> list[Outcome]:
        return list(model(endpoint).complete(requests(3)))

    with LoopbackEndpoint() as endpoint:
        assert len(asyncio.run(inside())) == 3


def test_two_at_a_time_do_not_disturb_each_other() -> None:
    with LoopbackEndpoint("echo") as endpoint:
        asked = model(endpoint)
        first, second = asked.complete(requests(20)), asked.complete(requests(20))
        pairs = list(zip(first, second, strict=True))
        assert list(first) == list(second) == []
    assert len(pairs) == 20


def test_connections_are_kept() -> None:
    with LoopbackEndpoint(latency=0.005) as endpoint:
        for _ in model(endpoint, concurrency=4).complete(requests(100)):
            assert len(endpoint.connections) <= 5
        ports = endpoint.opened
    # One more for the look at the models.
    assert ports <= 5


def test_many_failures_leave_no_open_files() -> None:
    before = len(list(Path("/proc/self/fd").iterdir())) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112
    with LoopbackEndpoint(mixed({"endless": 0.3, "hang": 0.1, "closed": 0.3}, seed=1)) as endpoint:
        list(model(endpoint, timeout_seconds=0.1, breaker_failures=1000, attempts=2).complete(requests(100)))
        assert endpoint.open_connections() == 0
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_proxies_of_the_environment_are_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert isinstance(ask("well"), Reply)


def test_identity_tells_what_the_endpoint_says() -> None:
    with LoopbackEndpoint() as endpoint:
        endpoint.models = {"data": [{"id": "tiny", "owned_by": "vllm", "root": "org/tiny", "max_model_len": 4096}]}
        identity = model(endpoint).identity
        assert (identity.backend, identity.name, identity.digest) == ("endpoint", "tiny", "")
        assert identity.facts == {
            "url": endpoint.url,
            "server": "loopback",
            "models": "tiny is among them",
            "owned_by": "vllm",
            "root": "org/tiny",
            "max_model_len": "4096",
        }


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (None, "not told: ValueError status 404"),
        ({"data": [{"id": "large"}, {"id": "small"}]}, "tiny is not among them: large, small"),
        ({"data": [3, None, {}]}, "tiny is not among them"),
        ({"data": 3}, "tiny is not among them: none"),
        ([], "tiny is not among them: none"),
        ({"models": [{"name": "tiny", "digest": "sha256:12"}], "data": [{"id": "tiny"}]}, "tiny is among them"),
    ],
)
def test_an_endpoint_that_tells_no_models_is_used_all_the_same(models: Any, words: str) -> None:
    with LoopbackEndpoint() as endpoint:
        endpoint.models = models
        asked = model(endpoint)
        assert words in asked.identity.facts["models"]
        assert len(list(asked.complete(requests(2)))) == 2


def test_a_name_that_the_endpoint_does_not_serve_is_told_with_those_it_serves() -> None:
    with LoopbackEndpoint("status:404") as endpoint, pytest.raises(ModelError, match="not among them: tiny"):
        list(model(endpoint, model="large").complete(requests(1)))


@pytest.mark.parametrize("ending", ["/", "/chat/completions", "/chat/completions/"])
def test_the_url_may_end_in_several_ways(ending: str) -> None:
    with LoopbackEndpoint() as endpoint:
        asked = model(endpoint.url + ending)
        assert len(list(asked.complete(requests(1)))) == 1
        assert asked.identity.facts["url"] == endpoint.url
    assert endpoint.headers[0].startswith("POST /v1/chat/completions HTTP/1.1")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:8000/v1",
        "ftp://host/v1",
        "http://",
        "http:///v1",
        "http://user:hunter22@host/v1",
        "http://hunter22@host/v1",
        "http://host/v1?key=hunter22",
        "http://host/v1#hunter22",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://ho\nst/v1",
    ],
)
def test_an_impossible_url_is_an_error_that_shows_no_secret(url: str) -> None:
    with pytest.raises(RecipeError, match="URL of the endpoint is impossible") as error:
        model(url)
    assert "hunter22" not in str(error.value)
    assert "hunter22" not in str(error.value.__cause__)


@pytest.mark.parametrize("key", ["two words", "ключ", "line\nbreak"])
def test_an_impossible_key_is_an_error_that_does_not_show_it(key: str) -> None:
    with pytest.raises(RecipeError, match="API key") as error:
        model("http://127.0.0.1/v1", api_key=key)
    assert key not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"concurrency": 0},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("nan")},
        {"attempts": 0},
        {"max_backoff_seconds": -1},
        {"breaker_failures": 0},
    ],
)
def test_impossible_settings_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(settings))):
        model("http://127.0.0.1/v1", **settings)


def test_a_throttle_lets_all_through_in_the_end() -> None:
    """Attempts that end in every way, in a random order, leave none waiting."""

    async def attempt(throttle: Throttle, draw: random.Random) -> None:
        number = await throttle.enter()
        await asyncio.sleep(draw.random() / 1000)
        way = draw.randrange(4)
        if way == 0:
            throttle.leave()
        elif way == 1:
            throttle.failed(number, too_many=draw.random() < 0.5, retry_after=draw.choice([None, 0.001]))
        else:
            throttle.answered()

    async def all_of_them(seed: int) -> None:
        draw = random.Random(seed)
        backoff = Backoff(longest_seconds=0.002, seed=seed)
        throttle = Throttle(width=draw.randrange(1, 9), failures_to_give_up=draw.choice([1, 2, 6]), backoff=backoff)
        async with asyncio.timeout(5):
            await asyncio.gather(*(attempt(throttle, draw) for _ in range(100)))

    for seed in range(5):
        asyncio.run(all_of_them(seed))


def test_too_many_requests_narrow_what_is_let_through_and_answers_widen_it() -> None:
    async def width(throttle: Throttle) -> int:
        """How many of 20 are let through before one ends."""
        inside, go = 0, asyncio.Event()

        async def attempt() -> None:
            nonlocal inside
            await throttle.enter()
            inside += 1
            await go.wait()
            throttle.leave()

        attempts = [asyncio.create_task(attempt()) for _ in range(20)]
        await asyncio.sleep(0.02)
        let_through = inside
        go.set()
        await asyncio.gather(*attempts)
        return let_through

    async def steps() -> list[int]:
        throttle = Throttle(width=10, failures_to_give_up=100, backoff=Backoff(longest_seconds=0.0, seed=0))
        widths = [await width(throttle)]
        together = [await throttle.enter() for _ in range(5)]
        for attempt in together:
            throttle.failed(attempt, too_many=True)
        widths.append(await width(throttle))
        throttle.failed(await throttle.enter(), too_many=True)
        widths.append(await width(throttle))
        for _ in range(100):
            await throttle.enter()
            throttle.answered()
        return [*widths, await width(throttle)]

    assert asyncio.run(steps()) == [10, 7, 4, 10]


def test_completion_is_what_endpoints_send() -> None:
    assert completion("x")["choices"][0]["message"] == {"role": "assistant", "content": "x"}
