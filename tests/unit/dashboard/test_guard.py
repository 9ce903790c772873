"""What no request gets past, and what every answer carries."""

from __future__ import annotations

import logging
import re

import builders
import people
import pytest
from fakes import ALL_RUNS, RUN, ApiError, stored_run
from people import Someone

from trainingrun_operator.dashboard.guard import TOKEN_MAX, Origins, as_token, csrf_fits, csrf_of

ADA = Someone("ada")
PAGE = f"/runs/{builders.NAMESPACE}/{builders.NAME}"
STOP = {"uid": builders.RUN_UID, "category": "overfitting", "text": "", "mode": "Auto"}


@pytest.fixture
async def cluster():
    async with people.cluster(stored_run(status=people.run_status()), ada=ADA) as cluster:
        yield cluster


# -- who asks, and by which name ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8081", "http://localhost:8081"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("[::1]:9", "http://[::1]:9"),
        ("Runs.Example.com", "https://runs.example.com"),
        ("inside:8080", "http://inside:8080"),
        pytest.param("runs.example.com:8443", "", id="another port"),
        pytest.param("evil.example.com", "", id="DNS rebinding: a name of somebody else's that leads here"),
        pytest.param("localhost.evil.example.com", "", id="a name that begins like ours"),
        pytest.param("localhost@evil.example.com", "", id="a user called localhost"),
        pytest.param("localhost:port", "", id="a port that is none"),
        pytest.param("localhost/x", "", id="a path"),
        pytest.param("[::1", "", id="half an address"),
        pytest.param("", "", id="no host"),
    ],
)
def test_the_dashboard_answers_to_its_own_names_only(host, origin):
    assert Origins.of(["https://runs.example.com", "http://inside:8080"]).of_host(host) == origin


async def test_a_name_that_is_allowed_twice_counts_as_https():
    assert Origins.of(["http://a", "https://a"]).of_host("a") == "https://a"


@pytest.mark.parametrize("path", ["/", "/login", PAGE, "/events", f"{PAGE}/events", "/static/app.css"])
async def test_a_request_for_another_host_is_refused_before_anything_is_asked(cluster, visit, path):
    async with visit(cluster) as ada:
        answer = await ada.get(path, Host="evil.example.com:8081")
    assert answer.status == 421
    assert "Unknown host 'evil.example.com:8081'" in answer.text
    assert not cluster.sent


async def test_the_kubelet_may_ask_by_any_name(cluster, visit):
    async with visit(cluster, "") as kubelet:
        assert (await kubelet.get("/healthz", Host="10.0.0.7:8081")).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Origin": "https://evil.example.com"}, id="another site"),
        pytest.param({"Origin": "http://127.0.0.1:1"}, id="another port of this machine"),
        pytest.param({"Origin": "null"}, id="a sandboxed frame"),
        pytest.param({"Origin": None}, id="nobody says where it comes from"),
        pytest.param({"Origin": None, "Sec_Fetch_Site": "cross-site"}, id="another site, as the browser says"),
    ],
)
@pytest.mark.parametrize("path", ["/login", "/logout", f"{PAGE}/stop", f"{PAGE}/proceed", f"{PAGE}/abandon"])
async def test_what_changes_something_comes_from_a_page_of_ours(cluster, visit, path, headers):
    async with visit(cluster) as ada:
        answer = await ada.press(path, STOP, **headers)
    assert answer.status == 403
    assert "did not come from a page of this dashboard" in answer.text
    assert not cluster.sent


async def test_a_browser_that_sends_no_origin_may_say_it_otherwise(cluster, visit):
    async with visit(cluster) as ada:
        answer = await ada.press(f"{PAGE}/stop", STOP, Origin=None, Sec_Fetch_Site="same-origin")
    assert answer.status == 200


@pytest.mark.parametrize("said", [None, "", "wrong", csrf_of("somebody else's token")])
@pytest.mark.parametrize("action", ["stop", "proceed", "abandon"])
async def test_a_button_needs_what_only_a_page_of_its_person_knows(cluster, visit, action, said):
    async with visit(cluster) as ada:
        answer = await ada.press(f"{PAGE}/{action}", STOP, X_CSRF_Token=said)
    assert (answer.status, answer.message) == (403, "Invalid CSRF token. Reload the page.")
    assert not cluster.lines("PATCH")


async def test_nobody_is_logged_out_by_others(cluster, visit):
    async with visit(cluster) as ada:
        assert (await ada.post("/logout", {"csrf": "wrong"})).status == 403
        assert (await ada.post("/logout", {"csrf": csrf_of("ada")})).status == 303


def test_the_csrf_token_neither_tells_the_token_nor_fits_another():
    assert "secret" not in csrf_of("secret")
    assert csrf_fits("secret", csrf_of("secret"))
    assert not csrf_fits("", csrf_of(""))


async def test_a_body_without_a_length_or_too_long_is_not_read(cluster, visit):
    async with visit(cluster) as ada:
        assert (await ada.press(f"{PAGE}/stop", {**STOP, "text": "x" * 20_000})).status == 413


# -- headers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/login", PAGE, "/nowhere", "/static/app.css", "/healthz", "/runs/ml/nobody"])
async def test_no_page_runs_foreign_script_or_sits_in_a_foreign_frame(cluster, visit, path):
    async with visit(cluster) as ada:
        headers = (await ada.get(path)).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/", "/login", PAGE, f"/runs/{builders.NAMESPACE}/nobody"])
async def test_pages_have_nothing_inline_and_are_kept_nowhere(cluster, visit, path):
    async with visit(cluster) as ada:
        answer = await ada.get(path)
    assert answer.headers["Cache-Control"] == "no-store"
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?! src=\"/static/)", answer.text)


async def test_assets_are_kept_because_their_addresses_change(cluster, visit):
    async with visit(cluster, "") as nobody:
        page = await nobody.get("/login")
        (address,) = re.findall(r"/static/app\.css\?v=\w{12}", page.text)
        assert "immutable" in (await nobody.get(address)).headers["Cache-Control"]


async def test_what_a_run_is_called_and_says_is_text_and_nothing_else(visit):
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    status = people.ended("failed", "Failed", attack, actor=attack, evidence=[{"what": "loss", "value": attack}])
    run = stored_run(status={**status, "terminationMessage": attack}, spec={"stop": True, "stopReason": attack})
    async with people.cluster(run, ada=Someone(f'a"{attack}')) as cluster, visit(cluster) as ada:
        for path in ("/", PAGE):
            text = (await ada.get(path)).text
            assert "<script>alert" not in text
            assert "<img" not in text


# -- login ----------------------------------------------------------------------------------------------------


async def test_a_login_keeps_the_token_where_no_script_and_no_other_site_reaches_it(cluster, visit):
    async with visit(cluster, "") as nobody:
        answer = await nobody.post("/login", {"token": " Bearer ada\n", "next": PAGE})
    assert (answer.status, answer.headers["Location"]) == (303, PAGE)
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("trainingrun-token=ada;")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie, "Over http a browser would not keep it."
    assert "Max-Age" not in cookie
    assert "Domain" not in cookie


async def test_over_https_the_cookie_belongs_to_this_host_and_to_https_alone(cluster, visit):
    async with visit(cluster, "", origins=("https://runs.example.com",)) as nobody:
        own = {"Host": "runs.example.com", "Origin": "https://runs.example.com"}
        cookie = (await nobody.post("/login", {"token": "ada"}, **own)).headers["Set-Cookie"]
        assert cookie.startswith("__Host-trainingrun-token=ada;")
        assert {"HttpOnly", "SameSite=strict", "Path=/", "Secure"} <= set(cookie.split("; "))
        assert (await nobody.get("/", Host="runs.example.com", Cookie="trainingrun-token=ada")).status == 303
        assert (await nobody.get("/", Host="runs.example.com", Cookie="__Host-trainingrun-token=ada")).status == 200


@pytest.mark.parametrize(
    ("token", "status", "said"),
    [
        pytest.param("stranger", 401, "rejects this token: it is expired", id="unknown or expired"),
        pytest.param("", 400, "This is not a token", id="nothing"),
        pytest.param("a b;c", 400, "This is not a token", id="characters that no token has"),
        pytest.param("x" * (TOKEN_MAX + 1), 400, "too long", id="longer than a cookie"),
    ],
)
async def test_a_token_that_does_not_work_is_told_so_and_not_kept(cluster, visit, token, status, said):
    async with visit(cluster, "") as nobody:
        answer = await nobody.post("/login", {"token": token})
    assert answer.status == status
    assert said in answer.text
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "then",
    ["//evil.example.com", "https://evil.example.com", "/\\evil.example.com", "javascript:alert(1)", "/a\r\nX: 1"],
)
async def test_a_login_leads_to_a_page_of_ours_only(cluster, visit, then):
    async with visit(cluster, "") as nobody:
        assert (await nobody.post("/login", {"token": "ada", "next": then})).headers["Location"] == "/"


def test_a_token_is_taken_as_people_paste_it():
    assert as_token("Bearer a.b-c_d~e+f/g=") == "a.b-c_d~e+f/g="
    assert as_token("ab\n  cd \n") == "abcd"
    assert as_token("a;b") == ""


async def test_nobody_is_asked_who_it_is_and_then_sent_on(cluster, visit):
    async with visit(cluster, "") as nobody:
        answer = await nobody.get(f"{PAGE}?x=1")
        assert (answer.status, answer.headers["Location"]) == (303, "/login?next=%2Fruns%2Fml%2Fbert%3Fx%3D1")
        assert (await nobody.get("/")).headers["Location"] == "/login"
        assert (await nobody.get("/events")).status == 401
        assert (await nobody.get(f"{PAGE}/events")).status == 401
        assert (await nobody.press(f"{PAGE}/stop", STOP)).status == 401


async def test_a_link_from_elsewhere_looks_again_because_the_cookie_did_not_come_along(cluster, visit):
    async with visit(cluster, "") as follower:
        answer = await follower.get(PAGE, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
        assert answer.status == 200
        assert '<meta http-equiv="refresh" content="0">' in answer.text
        assert (await follower.get(PAGE, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="navigate")).status == 303


async def test_a_login_that_has_expired_is_told_so_and_forgotten(cluster, visit):
    async with visit(cluster, "gone") as expired:
        answer = await expired.get("/")
    assert answer.status == 401
    assert "Your login has expired" in answer.text
    assert 'trainingrun-token=""' in answer.headers["Set-Cookie"]


# -- whose rights ---------------------------------------------------------------------------------------------


async def test_every_call_is_made_with_the_token_of_who_looks(cluster, visit):
    async with visit(cluster) as ada:
        await ada.get("/")
        await ada.get(PAGE)
        await ada.press(f"{PAGE}/stop", STOP)
    assert {sent.authorization for sent in cluster.sent} == {"Bearer ada"}


async def test_no_token_is_ever_logged(cluster, visit, caplog):
    caplog.set_level(logging.DEBUG)
    cluster.people["very-secret-token"] = ADA
    cluster.refuse(f"GET {ALL_RUNS}", ApiError(500, "InternalError", "etcd is away"))
    cluster.refuse(f"PATCH {RUN}", ApiError(500, "InternalError", "etcd is away"))
    async with visit(cluster, "") as nobody:
        await nobody.post("/login", {"token": "very-secret-token"})
    async with visit(cluster, "very-secret-token") as ada:
        assert (await ada.get("/")).status == 502
        assert (await ada.press(f"{PAGE}/stop", STOP)).status == 500
        await ada.press(f"{PAGE}/stop", {"uid": 7})
        await ada.get(PAGE)
    assert "very-secret-token" not in caplog.text
    assert csrf_of("very-secret-token") not in caplog.text


async def test_an_anonymous_viewer_reads_with_the_dashboards_own_rights_and_changes_nothing(
    cluster, visit, monkeypatch
):
    monkeypatch.setattr("trainingrun_operator.dashboard.app.service_account_token", lambda: "own")
    cluster.people["own"] = Someone("system:serviceaccount:trainingrun-system:dashboard")
    async with visit(cluster, "", anonymous=True) as anybody:
        assert ">bert</a>" in (await anybody.get("/")).text
        page = (await anybody.get(PAGE)).text
        assert "Read-only" in page
        assert "Stop training" not in page
        assert 'id="log"' not in page, "People print secrets."
        assert (await anybody.press(f"{PAGE}/stop", STOP)).status == 401
    assert {sent.authorization for sent in cluster.sent} == {"Bearer own"}
    assert not cluster.lines("PATCH")
