import importlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from review_pairs import captions_of, made_pair, made_pairs

from radvqa.errors import RecipeError, RunError
from radvqa.records import write_records
from radvqa.synth.review import open_review

testclient = pytest.importorskip("starlette.testclient", reason="needs the optional packages of radvqa[serve]")
server = pytest.importorskip("radvqa.synth.review.server")

ORIGIN = "http://127.0.0.1:8000"
JSON = {"Origin": ORIGIN, "Content-Type": "application/json"}


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.linspace(0, 4095, 64 * 48).reshape(48, 64).astype(np.uint16)).save(path)
    return path


@pytest.fixture
def review(tmp_path, picture):
    pairs = made_pairs(image=picture)
    return open_review(tmp_path, pairs, captions_of(pairs), size=40, seed=0)


def client(review, *, base=ORIGIN, **settings):
    return testclient.TestClient(server.create_app(review, **settings), base_url=base)


@pytest.fixture
def page(review):
    return client(review)


def items(page, reader="ana"):
    return page.get("/api/review", params={"reader": reader}).json()["items"]


def decide(page, key, verdict="accept", *, reader="ana", headers=JSON, **values):
    body = {"reader": reader, "key": key, "verdict": verdict} | values
    return page.post("/api/decisions", content=json.dumps(body), headers=headers)


def test_a_decision_is_stored_and_shown_again(page, review):
    first, second = items(page)[:2]
    assert decide(page, first["key"], seconds=3.5).json() == {"sequence": 1}
    answer = decide(page, second["key"], "reject", reasons=["not_visible", "other"], note=" cut off ")
    assert (answer.status_code, answer.json()) == (201, {"sequence": 2})
    stored = review.decisions.read().decisions
    assert [(one.verdict, one.seconds, one.note) for one in stored] == [("accept", 3.5, ""), ("reject", 0.0, "cut off")]
    again = items(page)
    assert again[0]["decision"]["verdict"] == "accept"
    assert again[1]["decision"]["reasons"] == ["not_visible", "other"]
    assert again[2]["decision"] is None


def test_undo_takes_back(page, review):
    key = items(page)[0]["key"]
    decide(page, key)
    assert decide(page, key, "withdraw").status_code == 201
    assert items(page)[0]["decision"] is None
    assert len(review.decisions.read().decisions) == 2


def test_an_edit_holds_both_texts(page, review):
    item = items(page)[0]
    assert decide(page, item["key"], "edit", question=item["question"], answer="liver").status_code == 201
    (stored,) = review.decisions.read().decisions
    assert (stored.question, stored.answer) == (item["question"], "liver")
    unchanged = decide(page, item["key"], "edit", question=item["question"], answer=item["answer"])
    assert (unchanged.status_code, unchanged.json()["error"]) == (422, "an edit that changes nothing")


def test_readers_do_not_see_each_other(page):
    key = items(page, "ana")[0]["key"]
    decide(page, key, reader="ana")
    assert all(one["decision"] is None for one in items(page, "ben"))
    assert {one["key"] for one in items(page, "ana")} == {one["key"] for one in items(page, "ben")}
    assert [one["key"] for one in items(page, "ana")] != [one["key"] for one in items(page, "ben")]
    assert items(page, " ANA ")[0]["decision"]["verdict"] == "accept"


def test_readers_do_not_see_what_the_screens_did(page, review):
    answer = page.get("/api/review", params={"reader": "ana"})
    assert set(answer.json()) == {"reader", "reasons", "items"}
    shown = {"key", "question", "answer", "slot", "caption", "earlier", "decision"}
    assert {frozenset(one) for one in answer.json()["items"]} == {frozenset(shown)}
    for secret in ("licence", 'leak"', "weight", "stratum", "pair/", "absent", str(review.folder)):
        assert secret not in answer.text


def test_earlier_turns_are_shown(tmp_path):
    pairs = [made_pair(turn, caption_id="c", dialogue_id="d", turn=turn) for turn in (1, 2)]
    review = open_review(tmp_path, pairs, captions_of(pairs), size=2)
    shown = {one["question"]: one["earlier"] for one in items(client(review))}
    assert shown[pairs[0].sample.question] == []
    assert shown[pairs[1].sample.question] == [
        {"question": pairs[0].sample.question, "answer": pairs[0].sample.answers[0]}
    ]


def test_a_deep_picture_is_shown_as_png(page):
    answer = page.get(f"/image/{items(page)[0]['key']}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (64, 48)
    # Pillow alone would clip 16 bits to white.
    assert (image.getpixel((0, 0)), image.getpixel((63, 47))) == ((0, 0, 0), (255, 255, 255))
    assert 120 < image.getpixel((32, 24))[0] < 136


def test_large_pictures_are_shrunk(tmp_path):
    path = tmp_path / "large.png"
    Image.new("L", (5000, 100)).save(path)
    pairs = [made_pair(1, image=path)]
    page = client(open_review(tmp_path, pairs, captions_of(pairs)))
    assert Image.open(io.BytesIO(page.get(f"/image/{items(page)[0]['key']}").content)).size == (2048, 41)


def test_pictures_outside_the_queue_are_not_served(page, review):
    for key in ("nothing", "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "pair%2f0001"):
        assert page.get(f"/image/{key}").status_code == 404


def test_a_missing_picture_is_told_without_its_path(tmp_path):
    pairs = [made_pair(1, image=tmp_path / "gone.png")]
    page = client(open_review(tmp_path, pairs, captions_of(pairs)))
    answer = page.get(f"/image/{items(page)[0]['key']}")
    assert (answer.status_code, answer.json()) == (410, {"error": "image file not found"})


@pytest.mark.parametrize("path", ["/", "/review.js", "/review.css", "/api/session", "/nothing", "/favicon.ico"])
def test_headers_of_every_answer(page, path):
    headers = page.get(path).headers
    policy = headers["content-security-policy"]
    for part in (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
        "frame-ancestors 'none'", "form-action 'none'",
    ):  # fmt: skip
        assert part in policy.split("; ")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8000", True), ("localhost:9999", True), ("[::1]:8000", True), ("LOCALHOST", True),
        ("evil.example", False), ("localhost.evil.example", False), ("127.0.0.1.evil.example:8000", False),
        ("192.168.1.7:8000", False), ("", False), ("[", False), ("evil.example:x@localhost", True),
    ],
)  # fmt: skip
def test_names_that_point_here_by_a_trick(page, host, known):
    # The last one is odd but harmless: its origin would have to be equal to it.
    assert page.get("/api/session", headers={"Host": host}).status_code == (200 if known else 421)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 201),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Content-Length": "1000000"}, 413),
        ({"Content-Length": "-1"}, 411),
    ],
)
def test_only_the_page_may_decide(page, review, headers, status):
    key = items(page)[0]["key"]
    assert decide(page, key, headers=JSON | headers).status_code == status
    assert len(review.decisions.read().decisions) == (status == 201)


def test_through_a_tunnel_with_another_port(page):
    headers = {"Host": "localhost:9000", "Origin": "http://localhost:9000", "Content-Type": "application/json"}
    assert decide(page, items(page)[0]["key"], headers=headers).status_code == 201


def test_other_methods(page):
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert page.request(method, "/api/decisions").status_code == 405
    assert page.get("/api/decisions").status_code == 405
    assert page.post("/", content="{}", headers=JSON).status_code == 405


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"verdict": "maybe"}, 422, "verdict"),
        ({"key": "nothing"}, 404, "no such item"),
        ({"reader": "a b"}, 422, "not a name"),
        ({"reader": None}, 422, "reader"),
        ({"verdict": "reject"}, 422, "without a reason"),
        ({"verdict": "reject", "reasons": ["other"]}, 422, "without a note"),
        ({"verdict": "reject", "reasons": ["because"]}, 422, "reasons.0"),
        ({"verdict": "edit"}, 422, "without its question"),
        ({"note": "x" * 2001}, 422, "2000"),
        ({"seconds": -1}, 422, "seconds"),
        ({"sequence": 9}, 422, "sequence"),
    ],
)
def test_wrong_decisions_are_refused_and_told(page, review, change, status, told):
    body = {"reader": "ana", "key": items(page)[0]["key"], "verdict": "accept"} | change
    answer = page.post("/api/decisions", content=json.dumps(body), headers=JSON)
    assert answer.status_code == status
    assert told in answer.json()["error"]
    assert review.decisions.read().decisions == ()


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"seconds": NaN}', "\ud83d".encode("utf-8", "surrogatepass")])
def test_no_decisions_at_all(page, body):
    assert page.post("/api/decisions", content=body, headers=JSON).status_code == 422


def test_a_full_disk_is_told_so_that_the_page_tries_again(page, review, monkeypatch):
    def full(_decision):
        raise RunError("the decision cannot be saved", where="/secret/place", got="No space left on device")

    key = items(page)[0]["key"]
    monkeypatch.setattr(type(review.decisions), "append", lambda _self, decision: full(decision))
    answer = decide(page, key)
    assert answer.status_code == 507
    assert "No space left" in answer.json()["error"] and "/secret" not in answer.text


def test_a_damaged_file_loses_nothing(page, review):
    key = items(page)[0]["key"]
    decide(page, key)
    review.decisions.path.write_text("damaged\n")
    for answer in (decide(page, key), page.get("/api/review", params={"reader": "ana"})):
        assert answer.status_code == 507  # neither 422, upon which the page would drop the decision
        assert str(review.folder) not in answer.text


def test_a_server_for_one_reader(review):
    page = client(review, reader="Ito")
    assert page.get("/api/session").json()["reader"] == "ito"
    key = items(page, "ito")[0]["key"]
    assert decide(page, key, reader="ito").status_code == 201
    assert decide(page, key, reader="ben").status_code == 422
    assert page.get("/api/review", params={"reader": "ben"}).status_code == 422
    with pytest.raises(RecipeError):
        client(review, reader="not a name")


def test_elsewhere_than_on_loopback_the_token_is_needed(review):
    base = "http://192.168.1.7:8000"
    page = client(review, base=base, host="0.0.0.0")
    token = page.app.state.token
    assert len(token) >= 32
    for path in ("/", "/review.js", "/api/session", "/api/review?reader=ana", "/image/x", "/?token=", "/?token=wrong"):
        assert page.get(path).status_code == 401
    assert page.get(f"/api/session?token={token}").status_code == 401  # only the page takes it
    first = page.get(f"/?token={token}", follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"]
    assert cookie.startswith("radvqa_review_8000=") and token not in cookie
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Domain" not in cookie
    assert page.get("/").status_code == 200
    key = items(page)[0]["key"]
    assert decide(page, key, headers=JSON | {"Origin": base}).status_code == 201
    page.cookies.clear()
    assert decide(page, key, headers=JSON | {"Origin": base}).status_code == 401
    assert page.get("/api/session", headers={"Cookie": f"radvqa_review_8000={token}"}).status_code == 401


def test_elsewhere_names_are_still_checked(review):
    page = client(review, base="http://reading-room.example:8000", host="0.0.0.0")
    query = f"/?token={page.app.state.token}"
    assert page.get(query).status_code == 421
    assert page.get(query, headers={"Host": f"{socket.gethostname()}:8000"}).status_code == 200
    named = client(review, base="http://reading-room.example:8000", host="reading-room.example")
    assert named.get(f"/?token={named.app.state.token}").status_code == 200


def test_on_loopback_a_token_can_be_asked_for(review):
    assert client(review).app.state.token == ""
    assert client(review, host="::1", base="http://[::1]:8000").get("/").status_code == 200
    asked = client(review, token="t" * 20)
    assert asked.get("/").status_code == 401
    assert asked.get(f"/?token={'t' * 20}").status_code == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("localhost.example", False)],
)  # fmt: skip
def test_loopback(host, local):
    assert server.is_loopback(host) is local


@pytest.mark.timeout(30)  # a server that starts would not end
def test_an_address_that_is_taken(review):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"127.0.0.1, port {port}"):
            server.serve(server.create_app(review), host="127.0.0.1", port=port, say=print)
    for host, port in (("192.0.2.1", 0), ("127.0.0.1", 99_999), ("127.0.0.1", -1)):
        with pytest.raises(RunError, match="cannot serve"):
            server.serve(server.create_app(review), host=host, port=port, say=print)


def test_without_the_optional_packages(monkeypatch):
    monkeypatch.delitem(sys.modules, "radvqa.synth.review.server")
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(RunError, match=r"radvqa\[serve\]"):
        importlib.import_module("radvqa.synth.review.server")


def test_it_serves_until_ctrl_c(tmp_path, picture):
    import httpx2

    write_records(tmp_path / "pairs.jsonl", made_pairs(kept=20, removed=10, image=picture))
    script = textwrap.dedent(f"""
        from pathlib import Path
        from radvqa.records import read_records
        from radvqa.synth.pair import SyntheticPair
        from radvqa.synth.review import open_review
        from radvqa.synth.review.server import create_app, serve
        pairs = read_records(Path({str(tmp_path)!r}, "pairs.jsonl"), SyntheticPair)
        review = open_review(Path({str(tmp_path)!r}), pairs, {{p.origin.caption_id: "text" for p in pairs}}, size=20)
        say = lambda text: print(text, flush=True)
        serve(create_app(review, reader="ana"), host="127.0.0.1", port=0, say=say)
    """)
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        address = re.fullmatch(r"review at (http://127\.0\.0\.1:\d+)/\n", process.stdout.readline())[1]
        with httpx2.Client(base_url=address) as http:
            assert http.get("/").status_code == 200
            key = http.get("/api/review?reader=ana").json()["items"][0]["key"]
            body = {"reader": "ana", "key": key, "verdict": "accept"}
            assert http.post("/api/decisions", json=body, headers={"Origin": address}).status_code == 201
            assert "server" not in http.get("/").headers
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert out.splitlines()[-1].endswith("decisions.jsonl holds 1 decisions")
    assert err == ""
    assert len(Path(tmp_path, "review", "decisions.jsonl").read_text().splitlines()) == 1
