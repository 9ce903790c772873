"""One request: what an answer means, who is asked again, how much is read, and with whose token."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from builders import NAME
from fakes import ALL_RUNS, RUN, ApiError, Plain, api_server, stored_job, stored_run

from trainingrun_operator.edge.apiserver import transport as module
from trainingrun_operator.edge.apiserver.transport import JSON_PATCH, KubeError, Transport


@pytest.fixture
async def api():
    async with api_server(stored_run(), stored_job()) as api:
        yield api


@pytest.fixture
async def transport(api):
    async with Transport(Plain(api.url), connections=4, busy_tries=module.BUSY_TRIES) as transport:
        yield transport


async def refused(call):
    with pytest.raises(KubeError) as caught:
        await call
    return caught.value


def patch(transport):
    return transport.call("PATCH", RUN, [], JSON_PATCH, token="ada")


def get(transport, path=RUN, **params):
    return transport.call("GET", path, params=params, token="ada")


# -- whose token --------------------------------------------------------------------------------------------------


async def test_each_call_carries_the_token_that_it_names_and_no_other(api, transport):
    for token in ("ada", "eve", ""):
        await transport.call("GET", RUN, token=token)
    assert [sent.authorization for sent in api.sent] == ["Bearer ada", "Bearer eve", ""]


async def test_the_token_of_a_connection_is_not_the_transports(api):
    async with Transport(Plain(api.url, token="operator"), connections=0, busy_tries=1) as transport:
        await get(transport)
        async with transport.stream(RUN, {}, token="") as content:
            assert await content.read()
    assert [sent.authorization for sent in api.sent] == ["Bearer ada", ""]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_nobody_is_followed_elsewhere_with_a_token(api, transport, status):
    async with api_server() as elsewhere:
        for _ in range(2):
            api.refuse(f"GET {RUN}", web.Response(status=status, headers={"Location": elsewhere.url + RUN}))
        assert (await refused(get(transport))).status == status
        with pytest.raises(KubeError):
            async with transport.stream(RUN, {}, token="ada"):
                pass
    assert elsewhere.sent == []


# -- errors -----------------------------------------------------------------------------------------------------

SCHEMA = [{"reason": "FieldValueInvalid", "field": "status.phase", "message": "no"}]
ANOTHER = [{"reason": "FieldValueInvalid", "field": "metadata.uid", "message": "immutable"}]


@pytest.mark.parametrize(
    ("answer", "gone", "conflict", "exists"),
    [
        pytest.param(ApiError(404, "NotFound"), True, False, False, id="404 is gone"),
        pytest.param(ApiError(409, "Conflict"), False, True, False, id="409 is a conflict"),
        pytest.param(ApiError(409, "AlreadyExists"), False, True, True, id="409 AlreadyExists is there already"),
        pytest.param(ApiError(422, "Invalid"), False, True, False, id="422 without causes is a failed test"),
        pytest.param(ApiError(422, "Invalid", causes=ANOTHER), False, True, False, id="422 about the uid is another's"),
        pytest.param(
            ApiError(422, "Invalid", causes=SCHEMA), False, False, False, id="422 with causes is the schema's"
        ),
        pytest.param(ApiError(403, "Forbidden"), False, False, False, id="403 is neither"),
        pytest.param(ApiError(410, "Expired"), False, False, False, id="410 is neither"),
        pytest.param(ApiError(500, "InternalError"), False, False, False, id="500 is neither"),
    ],
)
async def test_what_a_refusal_means(api, transport, answer, gone, conflict, exists):
    api.refuse(f"PATCH {RUN}", answer)
    error = await refused(patch(transport))
    assert (error.gone, error.conflict, error.exists) == (gone, conflict, exists)
    assert (error.status, error.reason, error.message) == (answer.code, answer.status["reason"], "refused")
    assert str(error) == f"{answer.code} {answer.status['reason']}: refused"


async def test_causes_are_kept(api, transport):
    api.refuse(f"PATCH {RUN}", ApiError(422, "Invalid", causes=SCHEMA))
    assert (await refused(patch(transport))).causes == tuple(SCHEMA)


@pytest.fixture
def waits(monkeypatch):
    """How long was waited, without waiting."""
    waited: list[float] = []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return waited


def busy(status, wait):
    return web.json_response(
        {"reason": "TooManyRequests"}, status=status, headers={"Retry-After": wait} if wait else {}
    )


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_api_server_is_asked_again_when_it_says(api, transport, waits, status):
    for wait in ("1", "2", "900"):
        api.refuse(f"PATCH {RUN}", busy(status, wait))
    await patch(transport)
    assert waits == [1, 2, module.BUSY_SECONDS], "never longer than that at once"
    assert api.lines("PATCH") == [f"PATCH {RUN}"] * 4


async def test_every_request_is_counted_those_that_are_tried_again_included(api, transport, waits, requests_made):
    for _ in range(2):
        api.refuse(f"GET {RUN}", busy(429, "1"))
    await get(transport)
    async with transport.stream(RUN, {}, token="ada"):
        pass
    assert requests_made() == {"kubernetes": 4}


async def test_who_wants_to_try_once_is_told_at_once(api, waits):
    api.refuse(f"GET {RUN}", busy(429, "1"))
    async with Transport(Plain(api.url), connections=1, busy_tries=1) as transport:
        assert (await refused(get(transport))).status == 429
    assert waits == []


async def test_an_api_server_that_stays_busy_is_an_error_after_a_while(api, transport, waits):
    for _ in range(module.BUSY_TRIES):
        api.refuse(f"GET {RUN}", busy(429, "1"))
    assert (await refused(get(transport))).status == 429
    assert len(waits) == module.BUSY_TRIES - 1


@pytest.mark.parametrize("wait", ["", "soon"])
async def test_a_busy_answer_that_does_not_say_when_is_an_error_at_once(api, transport, waits, wait):
    api.refuse(f"GET {RUN}", busy(429, wait))
    assert (await refused(get(transport))).status == 429
    assert waits == []


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        pytest.param(
            web.Response(status=502, text="<html>bad gateway" + "x" * 500), 502, "HTTP", id="a page of a proxy"
        ),
        pytest.param(web.Response(status=500, text='"words"'), 500, "HTTP", id="JSON that is no object"),
        pytest.param(web.Response(status=500, text="null"), 500, "HTTP", id="null"),
        pytest.param(web.Response(status=500, text='{"details": null}'), 500, "", id="a status without anything"),
        pytest.param(web.Response(text="<html>log in"), 0, "NotKubernetes", id="success that is not JSON"),
        pytest.param(web.Response(text="[1]"), 0, "NotKubernetes", id="success that is no object"),
        pytest.param(web.Response(body=b"\xff\xfe", charset="utf-8"), 0, "NotKubernetes", id="success that is no text"),
    ],
)
async def test_whatever_answers_instead_of_the_api_server_is_an_error_like_others(
    api, transport, answer, status, reason
):
    api.refuse(f"GET {RUN}", answer)
    error = await refused(get(transport))
    assert (error.status, error.reason) == (status, reason)
    assert len(error.message) <= 200
    assert not error.conflict


async def test_an_api_server_that_is_away_is_status_0(unused_tcp_port):
    where = Plain(f"http://127.0.0.1:{unused_tcp_port}")
    async with Transport(where, connections=1, busy_tries=1) as transport:
        error = await refused(get(transport))
    assert (error.status, error.reason) == (0, "Unreachable")
    assert f"GET {RUN}" in error.message


async def test_an_api_server_that_does_not_answer_is_given_up(transport, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)
    error = await refused(get(transport, ALL_RUNS, watch="true"))
    assert (error.status, error.reason) == (0, "Unreachable")
    assert "TimeoutError" in error.message


# -- how much is read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_without_an_end_is_not_read_to_it(api, transport, monkeypatch, status):
    monkeypatch.setattr(module, "BODY_MAX", 1000)
    api.refuse(f"GET {RUN}", web.Response(status=status, text="x" * 5000))
    error = await refused(get(transport))
    assert (error.status, error.reason) == (0, "TooLarge")
    assert "more than 1000 bytes" in error.message


async def names_of(pages):
    return [item["metadata"]["name"] async for page in pages for item in page["items"]]


def pages(transport):
    return transport.pages(ALL_RUNS, token="ada")


async def test_a_chunk_that_is_too_large_is_asked_for_again_in_smaller_ones(api, transport, monkeypatch):
    large = {"annotations": {"large": "x" * 10_000}}
    api.put(*(stored_run(name=f"run-{i}", uid=f"uid-{i}", **large) for i in range(9)))
    monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr(module, "BODY_MAX", 50_000)
    found = await names_of(pages(transport))
    assert sorted(found) == sorted([NAME, *(f"run-{i}" for i in range(9))])
    assert [sent.query["limit"] for sent in api.sent][:2] == ["16", "2"]


async def test_an_object_that_is_too_large_by_itself_is_an_error(transport, monkeypatch):
    monkeypatch.setattr(module, "BODY_MAX", 50)
    assert (await refused(names_of(pages(transport)))).reason == "TooLarge"


async def test_what_a_stream_is_refused_with_is_an_error_like_others(api, transport):
    api.refuse(f"GET {RUN}", ApiError(403, "Forbidden"))
    with pytest.raises(KubeError) as caught:
        async with transport.stream(RUN, {}, token="ada"):
            pass
    assert caught.value.forbidden


async def test_a_stream_that_says_nothing_for_too_long_is_given_up(transport):
    with pytest.raises(KubeError, match="did not answer in time"):
        async with transport.stream(ALL_RUNS, {"watch": "true"}, token="ada", silence_seconds=0.05) as content:
            await content.read()
