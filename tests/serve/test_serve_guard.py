"""Nobody gets anything who should not: names, tokens, other sites, paths, sizes."""

import http.client
import socket
import threading

import pytest

ORIGIN = "http://127.0.0.1:8000"
JSON = {"Origin": ORIGIN, "Content-Type": "application/json"}


def everything(key):
    case = f"s0/{key}"
    return ["/", "/failures", f"/case/{case}", f"/compare?a={case}&b={case}", "/help", "/static/frame.css",
            "/api/cases", f"/api/case/{case}", f"/api/case/{case}/model/maps", f"/image/{case}.png",
            f"/thumbnail/{case}.jpg",
            "/api/live", "/nothing", "/static/nothing.js", "/api/nothing", "/favicon.ico"]  # fmt: skip


def test_headers_of_every_answer(page, key):
    for path in everything(key):
        headers = page.get(path).headers
        policy = headers["content-security-policy"].split("; ")
        for part in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob:",
                     "connect-src 'self'", "base-uri 'none'", "frame-ancestors 'none'",
                     "form-action 'self'"):  # fmt: skip
            assert part in policy, path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"].split(",")[0] in ("no-store", "private")


def test_without_the_token_there_is_nothing(client, run, key):
    base = "http://192.168.1.7:8000"
    page = client(run, base=base, host="0.0.0.0")
    token = page.app.state.token
    assert len(token) >= 32
    for path in [*everything(key), "/?token=", "/?token=wrong", f"/help?token={token}", f"/api/cases?token={token}"]:
        answer = page.get(path)
        assert answer.status_code == 401, path
        assert "set-cookie" not in answer.headers
        assert len(answer.content) < 200
    refused = page.post("/api/ask", content="{}", headers=JSON | {"Origin": base})
    assert refused.status_code == 401
    first = page.get(f"/?token={token}", follow_redirects=False)
    assert (first.status_code, first.headers["location"], first.text) == (303, "/", "")
    cookie = first.headers["set-cookie"]
    assert cookie.startswith("radvqa_page_8000=") and token not in cookie
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Domain" not in cookie
    assert "default-src 'none'" in first.headers["content-security-policy"]
    assert first.headers["cache-control"] == "no-store"
    assert "19 of 19 cases" in page.get("/").text
    for path in everything(key):
        assert page.get(path).status_code in (200, 204, 404), path
    session = page.cookies["radvqa_page_8000"]
    page.cookies.clear()
    assert page.get("/").status_code == 401
    for name, value in (("page_8000", "wrong"), ("page_8000", token), ("page_8000", ""), ("review_8000", session)):
        assert page.get("/", headers={"Cookie": f"radvqa_{name}={value}"}).status_code == 401
    assert page.get("/", headers={"Cookie": f"radvqa_page_8000={session}"}).status_code == 200
    # Another server on another port of this machine gets the cookie too, and neither takes it nor is disturbed by it.
    assert page.get("/", headers={"Host": "192.168.1.7:9", "Cookie": f"radvqa_page_8000={session}"}).status_code == 401
    both = f"radvqa_page_9=other; radvqa_page_8000={session}"
    assert page.get("/", headers={"Cookie": both}).status_code == 200
    assert client(run, base=base, host="0.0.0.0").app.state.token != token


def test_on_loopback_a_token_can_be_asked_for(client, run):
    assert client(run).app.state.token == ""
    page = client(run, token="t" * 20)
    assert page.get("/").status_code == 401
    assert page.get(f"/?token={'t' * 20}").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8000", 200), ("localhost:1", 200), ("[::1]:8000", 200), ("evil.example", 421), ("", 421),
     ("192.168.1.7", 421), ("127.0.0.1.evil.example", 421), ("127.0.0.1:port", 421), ("127.0.0.1:99999", 421)],
)  # fmt: skip
def test_other_names_are_refused(page, host, status):
    for path in ("/", "/api/cases", "/static/frame.css"):
        assert page.get(path, headers={"Host": host}).status_code == status


def test_a_server_of_a_network_knows_its_own_names_only(client, run):
    page = client(run, base="http://reading-room.example", host="0.0.0.0")
    token = page.app.state.token
    assert page.get(f"/?token={token}").status_code == 421
    assert page.get(f"/?token={token}", headers={"Host": socket.gethostname()}).status_code == 200


PATHS = (
    "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/%2e%2e%2fapp.py",
    "/static/..%5capp.py", "/static/%2fetc/passwd", "/static//etc/passwd", "/static/%00", "/static/",
    "/static/vendor", "/image/s0/..%2f..%2frecipe.png", "/image/..%2fs0/x.png", "/api/case/s0/..%2f..",
    "/api/case/s0/%2e%2e/model/maps", "/case/s0/..%2f..%2f..%2fetc%2fpasswd", "/thumbnail/s0/%2e%2e%2fx.jpg",
    "/api/case/s0/{key}/..%2f..%2fmodel/maps", "/api/case/s0/{key}/model/..%2fmaps", "/api/case/s0/{key}%00",
    "/case/s0/{key}%2f", "/case/s0/{key}/", "/api/case/s0%2f{key}/x", "/compare?a=s0/../{key}&b=s0/{key}",
)  # fmt: skip


@pytest.fixture(scope="module")
def port(run):
    """A real server: a test client would tidy the paths."""
    import uvicorn

    from radvqa.serve.app import create_app

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(create_app([run]), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(timeout=20)


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out(port, key, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("GET", path.format(key=key))
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 404
    assert b"import" not in body and b"root:" not in body and b"name: slake" not in body


def test_static_files(page):
    assert page.get("/static/frame.css").headers["content-type"].startswith("text/css")
    assert page.get("/static/case.js").headers["content-type"].startswith("text/javascript")
    assert page.get("/static/frame.css").headers["cache-control"] == "private, no-cache"
    tag = page.get("/static/frame.css").headers["etag"]
    assert page.get("/static/frame.css", headers={"If-None-Match": tag}).status_code == 304


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 404),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "multipart/form-data"}, 415),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Content-Length": "65537"}, 413),
        ({"Content-Length": "99999999999999999999"}, 413),
    ],
)
def test_only_the_page_may_ask(client, run, headers, status):
    page = client(run, live=lambda _series: None)
    body = '{"series": "s9", "key": "x", "question": "x"}'
    assert page.post("/api/ask", content=body, headers=JSON | headers).status_code == status


def test_long_bodies(client, run):
    page = client(run, live=lambda _series: None)
    body = '{"series": "s0", "key": "x", "question": "%s"}' % ("x" * 70_000)
    answer = page.post("/api/ask", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["error"]) == (413, "at most 65536 bytes")


def test_other_methods(page):
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert page.request(method, "/").status_code == 405
    assert page.get("/api/ask").status_code == 405
    for path in ("/", "/api/cases", "/help", "/static/frame.css"):
        assert page.post(path, content="{}", headers=JSON).status_code == 405


def test_a_fault_has_the_headers_too(client, run, monkeypatch):
    page = client(run, failing=True)
    monkeypatch.setattr(type(page.app.state.cases), "all_facts", lambda _self: 1 / 0)
    answer = page.get("/api/cases")
    assert answer.status_code == 500
    assert "ZeroDivisionError" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
