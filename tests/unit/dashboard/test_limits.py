"""The dashboard under many viewers, and under those who mean it harm: over real sockets, what is bounded and who is still answered."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from inspect import iscoroutinefunction

import people
import pytest
from aiohttp import web
from builders import NAME, NAMESPACE
from fakes import ALL_RUNS, RUN, ApiError, stored_run
from people import Someone, curve_map, run_status

from trainingrun_operator.dashboard import connections, feeds, limits, live

ADA, EVE = Someone("ada"), Someone("eve")
PAGE = f"/runs/{NAMESPACE}/{NAME}"
EVENTS = f"{PAGE}/events"
CURVE = f"GET /api/v1/namespaces/{NAMESPACE}/configmaps/{NAME}-curve"


@pytest.fixture
def own(monkeypatch):
    """The dashboard's own token, as its file has it now."""
    tokens = ["own"]
    monkeypatch.setattr("trainingrun_operator.dashboard.app.service_account_token", lambda: tokens[-1])
    return tokens


@asynccontextmanager
async def served(visit, who="ada", **settings):
    account = Someone("system:serviceaccount:trainingrun-system:dashboard")
    async with people.cluster(stored_run(status=run_status()), ada=ADA, eve=EVE, own=account) as cluster:
        cluster.put(curve_map([]))
        async with visit(cluster, who, **settings) as visitor:
            yield cluster, visitor


async def until(true):
    """Wait for a condition, which may be a coroutine function."""
    async with asyncio.timeout(10):
        while not (await true() if iscoroutinefunction(true) else true()):  # noqa: ASYNC110 - nothing tells when a server has noticed
            await asyncio.sleep(0.02)


# -- live pages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/events", EVENTS])
async def test_a_person_has_a_number_of_live_pages_and_then_words(visit, monkeypatch, path):
    monkeypatch.setattr(limits, "STREAMS_OF_ONE", 2)
    async with served(visit) as (_, ada), ada.events(path) as first:
        await first.wait("well")
        async with ada.events(path) as second:
            await second.wait("well")
            refused = await ada.get(path)
            assert (refused.status, refused.headers["Content-Type"]) == (429, "text/plain; charset=utf-8")
            assert "You have 2 live pages open" in refused.text
            assert int(refused.headers["Retry-After"]) > 0
            ada.token = "eve"
            async with ada.events(path) as of_eve:
                await of_eve.wait("well")
            ada.token = "ada"
            second.answer.close()

        async def open_again():
            async with ada.events(path) as third:
                return third.answer.status == 200

        await until(open_again)


async def test_another_token_of_the_same_person_brings_no_more_places(visit, monkeypatch):
    monkeypatch.setattr(limits, "STREAMS_OF_ONE", 1)
    async with served(visit) as (cluster, ada), ada.events("/events") as page:
        await page.wait("well")
        cluster.people["second"] = ADA
        ada.token = "second"
        assert (await ada.get("/events")).status == 429


@pytest.mark.parametrize("path", ["/events", EVENTS])
async def test_a_token_that_nobody_has_takes_no_place(visit, monkeypatch, path):
    monkeypatch.setattr(limits, "STREAMS", 0)
    async with served(visit, "invented") as (_, stranger):
        refused = await stranger.get(path)
        assert (refused.status, refused.text) == (401, "Your login is no longer valid: log in again.\n")


async def test_an_api_server_that_is_away_is_said_to_the_page(visit, monkeypatch):
    async def away(*_):
        return web.json_response(ApiError(500, "InternalError", "etcd is away").status, status=500)

    async with served(visit) as (cluster, ada):
        monkeypatch.setattr(cluster, "_review", away)
        refused = await ada.get(EVENTS)
        assert (refused.status, "etcd is away" in refused.text) == (502, True)


async def test_all_together_have_a_number_of_live_pages_and_then_words(visit, monkeypatch):
    monkeypatch.setattr(limits, "STREAMS", 1)
    async with served(visit) as (_, visitor), visitor.events(EVENTS) as page:
        await page.wait("well")
        visitor.token = "eve"
        refused = await visitor.get(EVENTS)
        assert (refused.status, "1 pages are live, which is the limit" in refused.text) == (503, True)
        assert (await visitor.get(PAGE)).status == 200, "The page itself is still shown."


async def test_viewers_without_a_login_leave_places_for_those_with_one(visit, monkeypatch, own):
    monkeypatch.setattr(limits, "STREAMS_ANONYMOUS", 1)
    async with served(visit, "", anonymous=True) as (_, visitor), visitor.events("/events") as page:
        await page.wait("well")
        refused = await visitor.get("/events")
        assert (refused.status, "Log in" in refused.text) == (503, True)
        visitor.token = "ada"
        async with visitor.events("/events") as of_ada:
            await of_ada.wait("well")


async def test_requests_above_the_limit_are_refused_and_liveness_is_not(visit, monkeypatch):
    monkeypatch.setattr(limits, "REQUESTS", 3)
    async with served(visit) as (cluster, ada):
        answers = asyncio.Event()
        monkeypatch.setattr(cluster, "_review", lambda *args: _after(answers, cluster, args))
        asking = [asyncio.create_task(ada.get(PAGE)) for _ in range(3)]
        await until(lambda: len(cluster.lines("GET")) == 3)
        refused = await ada.get(PAGE)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
        assert (await ada.get("/healthz")).status == 200
        answers.set()
        assert [page.status for page in await asyncio.gather(*asking)] == [200] * 3
        assert (await ada.get(PAGE)).status == 200


async def _after(event, cluster, args):
    await event.wait()
    return await people.Cluster._review(cluster, *args)


# -- what the API server is asked ------------------------------------------------------------------------------


async def test_anonymous_viewers_share_one_list_and_one_watch(visit, own):
    async with AsyncExitStack() as all_open:
        cluster, anybody = await all_open.enter_async_context(served(visit, "", anonymous=True))
        pages = [await all_open.enter_async_context(anybody.events("/events")) for _ in range(20)]
        for page in pages:
            await page.wait("well")
        for _ in range(5):
            assert ">bert</a>" in (await anybody.get("/")).text
        await cluster.tell("MODIFIED", stored_run(status=run_status("Held")))
        for page in pages:
            assert "Held" in (await page.wait("part", "row-"))["html"]
        assert cluster.lines("GET") == [f"GET {ALL_RUNS}"] * 2


async def test_anonymous_viewers_of_a_run_share_its_watch_and_its_curve(visit, own):
    async with AsyncExitStack() as all_open:
        cluster, anybody = await all_open.enter_async_context(served(visit, "", anonymous=True))
        pages = [await all_open.enter_async_context(anybody.events(EVENTS)) for _ in range(10)]
        for page in pages:
            await page.wait("curve")
        await cluster.tell("MODIFIED", stored_run(status=run_status("Held")))
        for page in pages:
            await page.wait("part", '"head"')
        assert sorted(cluster.lines("GET")) == sorted([f"GET {RUN}", f"GET {RUN.rpartition('/')[0]}", CURVE])


async def test_people_read_in_their_own_names(visit):
    async with served(visit) as (cluster, visitor), visitor.events("/events") as of_ada:
        await of_ada.wait("well")
        visitor.token = "eve"
        async with visitor.events("/events") as of_eve:
            await of_eve.wait("well")
            await until(lambda: len(cluster.sent) == 4)
    assert sorted(sent.authorization for sent in cluster.sent) == ["Bearer ada"] * 2 + ["Bearer eve"] * 2


async def test_a_feed_without_pages_ends(visit, own, monkeypatch):
    monkeypatch.setattr(feeds, "LINGER_SECONDS", 0.05)

    def reading():
        return [
            task
            for task in asyncio.all_tasks()
            if "_read_fleet" in repr(task.get_coro()) or "_pump" in repr(task.get_coro())
        ]

    async with served(visit, "", anonymous=True) as (_, anybody):
        async with anybody.events("/events") as page:
            await page.wait("well")
            assert reading()
        await until(lambda: not reading())


async def test_namespaces_that_a_viewer_invents_leave_only_a_few_feeds(visit, own):
    async with served(visit, "", anonymous=True) as (_, anybody):
        for number in range(3 * feeds.LINGERING):
            await anybody.get(f"/?namespace=invented-{number}")
        await until(
            lambda: len([task for task in asyncio.all_tasks() if "_pump" in repr(task.get_coro())]) <= feeds.LINGERING
        )


async def test_the_dashboards_own_token_is_renewed_under_an_open_page(visit, own, monkeypatch):
    monkeypatch.setattr(feeds, "RETRY_SECONDS", 0.01)
    async with served(visit, "", anonymous=True) as (cluster, anybody), anybody.events("/events") as page:
        await page.wait("well")
        cluster.people["renewed"] = cluster.people.pop("own")
        own.append("renewed")
        await cluster.tell("ERROR", {**stored_run(), "code": 410, "reason": "Expired", "message": ""})
        await until(lambda: any(sent.authorization == "Bearer renewed" for sent in cluster.sent))
        await cluster.tell("MODIFIED", stored_run(status=run_status("Held")))
        assert "Held" in (await page.wait("part", "row-"))["html"]


async def test_a_list_that_is_refused_to_all_is_said_to_each(visit, own):
    async with served(visit, "", anonymous=True) as (cluster, anybody):
        cluster.refuse(f"GET {ALL_RUNS}", ApiError(500, "InternalError", "etcd is away"))
        answer = await anybody.get("/")
        assert (answer.status, "etcd is away" in answer.text) == (502, True)


# -- connections ----------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.8)
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.8)


async def connect(visitor, source="127.0.0.1"):
    host, _, port = visitor.host.partition(":")
    return await asyncio.open_connection(host, int(port), local_addr=(source, 0))


async def closed(reader):
    """Wait until the server closes the connection."""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(65536):
                pass
    return True


HEAD = "GET /healthz HTTP/1.1\r\nHost: {}\r\n"
POST = "POST /login HTTP/1.1\r\nHost: {}\r\nOrigin: http://{}\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "drips"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("GET / HT", "", id="half a line"),
        pytest.param(HEAD, "", id="half a head"),
        pytest.param(HEAD, "x", id="a head, a byte at a time"),
        pytest.param(POST, "", id="a head without its body"),
        pytest.param(POST, "x", id="a body, a byte at a time"),
    ],
)
async def test_a_request_that_does_not_come_whole_is_cut(visit, hasty, sent, drips):
    async with served(visit) as (_, visitor):
        reader, writer = await connect(visitor)
        writer.write(sent.replace("{}", visitor.host).encode())

        async def drip():
            with contextlib.suppress(ConnectionError):
                while drips:
                    writer.write(drips.encode())
                    await writer.drain()
                    await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert await closed(reader)
        dripping.cancel()
        writer.close()
        assert (await visitor.get("/healthz")).status == 200


async def test_the_next_request_of_a_connection_has_a_deadline_too(visit, hasty):
    async with served(visit) as (_, visitor):
        reader, writer = await connect(visitor)
        head = HEAD.replace("{}", visitor.host).encode()
        writer.write(head + b"\r\n")
        assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
        writer.write(head)
        async with asyncio.timeout(2):
            assert await closed(reader)
        writer.close()


async def test_a_request_in_time_is_answered_after_its_deadline_would_have_passed(visit, hasty):
    async with served(visit) as (cluster, ada), ada.events("/events") as page:
        await page.wait("well")
        await asyncio.sleep(connections.REQUEST_SECONDS * 2)
        await cluster.tell("MODIFIED", stored_run(status=run_status("Held")))
        assert "Held" in (await page.wait("part", "row-"))["html"]


async def test_a_flood_of_connections_takes_no_place_from_pages_and_probes(visit, monkeypatch):
    monkeypatch.setattr(connections, "CONNECTIONS", 20)
    async with served(visit) as (cluster, ada), ada.events("/events") as page:
        await page.wait("well")
        held = [await connect(ada, "127.0.0.2") for _ in range(100)]
        for _ in range(10):
            assert (await ada.get("/healthz")).status == 200
        await asyncio.sleep(0.1)
        assert sum(not reader.at_eof() and reader.exception() is None for reader, _ in held) <= 20
        await cluster.tell("MODIFIED", stored_run(status=run_status("Held")))
        assert "Held" in (await page.wait("part", "row-"))["html"]
        for _, writer in held:
            writer.close()


async def test_a_browser_that_has_stopped_reading_is_cut_and_its_place_is_free(visit, hasty, monkeypatch):
    monkeypatch.setattr(limits, "STREAMS_OF_ONE", 1)
    monkeypatch.setattr(live, "LOG_SECONDS", 0.01)

    async def endless(request, pod):
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 1900 + b"\n")
            await asyncio.sleep(0)

    async with served(visit) as (cluster, ada):
        monkeypatch.setattr(cluster, "_follow", endless)
        host, _, port = ada.host.partition(":")
        with socket.socket() as stopped:
            stopped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stopped.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(stopped, (host, int(port)))
            head = f"GET {EVENTS} HTTP/1.1\r\nHost: {ada.host}\r\nCookie: trainingrun-token=ada\r\n\r\n"
            await loop.sock_sendall(stopped, head.encode())

            async def free():
                async with ada.events(EVENTS) as page:
                    return page.answer.status == 200

            async def taken():
                return not await free()

            await until(taken)
            await until(free)
