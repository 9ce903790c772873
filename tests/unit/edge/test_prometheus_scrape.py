"""Whatever a pod answers on its metrics page, a look at it ends in time with a Reading or a sentence."""

from __future__ import annotations

import asyncio
import gzip
import math
import socket
import threading
import time
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from builders import make_reading
from cpu import quiet_seconds

from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.core.facts.reading import Failure, Reading
from trainingrun_operator.edge.metrics import prometheus
from trainingrun_operator.edge.metrics.page import parse
from trainingrun_operator.edge.metrics.prometheus import make_session, scrape

NAMES = MetricNames()
MANY_NAMES = MetricNames(
    loss=(*(f"loss_{i}" for i in range(7)), "loss"),
    step=tuple(f"step_{i}" for i in range(8)),
    epoch=tuple(f"epoch_{i}" for i in range(8)),
    total_epochs=tuple(f"total_{i}" for i in range(8)),
)


@asynccontextmanager
async def page(answer):
    """A real server on loopback; `answer` is an aiohttp handler or the page's text. Yields the page's address."""

    async def text(_):
        return web.Response(text=answer)

    app = web.Application()
    app.router.add_get("/metrics", answer if callable(answer) else text)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    finally:
        await runner.cleanup()


async def look(url, names=NAMES, **limits):
    async with make_session() as session:
        return await scrape(session, url, names, **limits)


async def look_at(answer, names=NAMES, **limits):
    async with page(answer) as url:
        return await look(url, names, **limits)


def same(found, expected):
    """Equal, with NaN equal to itself."""
    return repr(found) == repr(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("training_loss 0.25\ntraining_step 7\n", make_reading(0.25, 7.0), id="loss and step are read"),
        pytest.param(
            "step 5\nglobal_step 6\ntraining_step 7\n",
            make_reading(step=7.0),
            id="the first name of the list wins, whatever the order of the page",
        ),
        pytest.param(
            "loss 3\ntrain_loss 2\nstep 1\n", make_reading(2.0, 1.0), id="the first name that is there is taken"
        ),
        pytest.param("loss NaN\nstep 1\n", make_reading(math.nan, 1.0), id="NaN is a reading"),
        pytest.param("loss +Inf\nstep 1\n", make_reading(math.inf, 1.0), id="+Inf is a reading"),
        pytest.param("loss -Inf\nstep 1\n", make_reading(-math.inf, 1.0), id="-Inf is a reading"),
        pytest.param("step 1\n", make_reading(step=1.0), id="a step without a loss is a reading"),
        pytest.param("loss 1\n", make_reading(loss=1.0), id="a loss without a step is a reading"),
        pytest.param(
            "loss 1e-05 1700000000000\n", make_reading(loss=1e-05), id="a timestamp behind the value is not the value"
        ),
        pytest.param('loss 1 # {trace_id="a"} 2\n', make_reading(loss=1.0), id="an exemplar is not the value"),
        pytest.param(
            'loss{rank="0"} 1\nloss{rank="1"} 1\n', make_reading(loss=1.0), id="series that agree are one value"
        ),
        pytest.param(
            'loss{rank="0"} 1\nloss 2\n',
            make_reading(loss=2.0),
            id="the series without labels goes before those with labels",
        ),
        pytest.param('loss{rank="0"} 1\nloss{} 2\n', make_reading(loss=2.0), id="empty braces are no labels"),
        pytest.param(
            'loss{a="}",b="\\" 9"} 1\n', make_reading(loss=1.0), id="a brace or a quote inside a label ends nothing"
        ),
        pytest.param('loss {a="b"}1\n', make_reading(loss=1.0), id="blanks around the labels do not matter"),
        pytest.param("loss\t1\n", make_reading(loss=1.0), id="a tab separates as well"),
        pytest.param("loss 1\r\nstep 2\r\n", make_reading(1.0, 2.0), id="Windows line ends do not matter"),
        pytest.param("loss 1", make_reading(loss=1.0), id="the last line needs no end"),
        pytest.param("# loss 9\n# HELP loss 9\nloss 1\n", make_reading(loss=1.0), id="comments are no readings"),
        pytest.param(
            "validation_loss 9\nloss_total 9\nmy:loss 9\nloss 1\n",
            make_reading(loss=1.0),
            id="a name inside another name is not meant",
        ),
        pytest.param(
            "loss many\nloss 1\n", make_reading(loss=1.0), id="a line whose value is no number is passed over"
        ),
        pytest.param(
            "loss " + "1" * 100_000 + "\nstep 1\n", make_reading(step=1.0), id="a number longer than any number is none"
        ),
        pytest.param('loss{a="' + "x" * 500_000 + '"} 1\nstep 2\n', make_reading(1.0, 2.0), id="a huge line is read"),
        pytest.param(
            "training_epoch 1.5\ntotal_epochs 3\nstep 1\n",
            make_reading(step=1.0, epoch=1.5, total_epochs=3.0),
            id="epochs are read",
        ),
    ],
)
def test_a_page_says(text, expected):
    assert same(parse(text.encode(), NAMES), expected)


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        pytest.param("loss{a\n" * 150_000, "TooManySeries", id="braces that never close"),
        pytest.param('loss{a="\n' * 120_000, "TooManySeries", id="quotes that never close"),
        pytest.param('loss{"' + 'a"b"' * 250_000, None, id="one line of quotes"),
        pytest.param("loss{" + "," * 1_000_000, None, id="one line without an end"),
        pytest.param(" " * 1_000_000, None, id="a page of blanks"),
        pytest.param(" " * 500_000 + "loss 1\n" + "\t" * 500_000, None, id="an indent without an end"),
        pytest.param("loss " * 200_000, "TooManySeries", id="the same word for ever"),
        pytest.param("a 1\n" * 260_000, None, id="many short lines"),
        pytest.param("los" * 340_000, None, id="almost the name for ever"),
        pytest.param("".join(f'loss{{rank="{i}"}} {i}\n' for i in range(50_000)), "TooManySeries", id="many series"),
        pytest.param('loss{a="' + "\\\\" * 500_000 + '"} 1\n', None, id="a label of escapes"),
        pytest.param("loss{" + 'a="",' * 200_000 + "} 1\n", None, id="many labels"),
    ],
)
def test_a_hostile_page_costs_little(hostile, reason):
    page = hostile.encode()
    assert quiet_seconds(lambda: parse(page, MANY_NAMES)) < 0.5
    found = parse(page, MANY_NAMES)
    assert (found.reason if isinstance(found, Failure) else None) == reason


async def test_a_gauge_is_read_over_the_wire():
    assert await look_at("training_loss 0.5\ntraining_step 3\n") == make_reading(0.5, 3.0)


SPLITS = """training_loss 0.5
training_step 3
eval_loss{split="val"} 0.7
eval_loss{split="test"} 0.9
accuracy 0.81
reward_total{quantile="0.5"} 1
norm NaN
"""


async def test_values_that_stop_rules_name_are_read_beside_loss_and_step():
    further = ('eval_loss{split="val"}', "accuracy", "norm", "loss", "none")
    found = await look_at(SPLITS, further=further)
    assert isinstance(found, Reading)
    assert repr(found.values) == repr({'eval_loss{split="val"}': 0.7, "accuracy": 0.81, "norm": math.nan, "loss": 0.5})
    assert found.troubles == {}


async def test_a_value_of_a_stop_rule_that_is_ambiguous_keeps_no_other_from_being_read():
    found = await look_at(SPLITS, further=("eval_loss", "reward_total", "accuracy"))
    assert isinstance(found, Reading)
    assert (found.values, found.step) == ({"loss": 0.5, "accuracy": 0.81}, 3)
    assert {name: one.reason for name, one in found.troubles.items()} == {
        "eval_loss": "AmbiguousSeries", "reward_total": "AmbiguousSeries",
    }  # fmt: skip
    said = found.troubles["eval_loss"].message
    assert "the metric of the stop rule" in said
    assert "split" in said


@pytest.mark.parametrize(("lines", "beside"), [(0, False), (10_000, True)], ids=["small", "large"])
async def test_a_large_page_is_parsed_beside_the_event_loop(lines, beside, monkeypatch):
    threads = []

    def spied(text, names, further):
        threads.append(threading.current_thread())
        return parse(text, names, further)

    monkeypatch.setattr(prometheus, "parse", spied)
    assert await look_at("other 1\n" * lines + "training_loss 0.5\ntraining_step 3\n") == make_reading(0.5, 3.0)
    assert [one is not threading.main_thread() for one in threads] == [beside]


async def test_a_page_with_series_that_disagree_is_a_failure_and_quotes_nothing_of_the_pod():
    found = await look_at('loss{user="secret"} 1\nloss{user="other"} 2\nstep 1\n')
    assert isinstance(found, Failure)
    assert (found.reason, "secret" in found.message, "labels: user" in found.message) == (
        "AmbiguousSeries",
        False,
        True,
    )


async def test_a_page_with_too_many_lines_of_the_names_is_a_failure():
    found = await look_at("loss\n" * 10_001)
    assert isinstance(found, Failure)
    assert found.reason == "TooManySeries"


async def test_names_with_special_characters_are_taken_literally():
    names = MetricNames(loss=("my:loss",), step=("my:step",))
    assert await look_at("my:loss 1\nmyXloss 2\nmy:step 3\n", names) == make_reading(1.0, 3.0)


async def test_a_page_without_loss_and_step_lists_the_names_looked_for():
    found = await look_at("up 1\ntraining_epoch 3\n")
    assert isinstance(found, Failure)
    assert found.reason == "NoSuchMetric"
    assert "training_loss, train_loss, loss, training_step, global_step, step" in found.message


async def test_a_page_of_ten_megabytes_is_given_up_at_the_cap():
    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(160):
            await response.write(b"a" * 65_536)
        return response

    assert (await look_at(endless)).reason == "TooLarge"


async def test_a_page_that_says_itself_that_it_is_too_large_is_not_read():
    assert (await look_at("a" * 2_000, cap_bytes=1_000)).reason == "TooLarge"


async def test_a_page_of_exactly_the_cap_is_read():
    text = "loss 1\n".ljust(1_000, "#")
    assert await look_at(text, cap_bytes=1_000) == make_reading(loss=1.0)


async def test_a_server_that_hangs_is_left_in_time():
    async def hang(_):
        await asyncio.sleep(30)

    began = time.monotonic()
    found = await look_at(hang, timeout_seconds=0.2)
    assert found.reason == "Timeout"
    assert "0.2 s" in found.message
    assert time.monotonic() - began < 2


async def test_a_body_that_drips_is_left_in_time():
    async def drip(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(300):
            await response.write(b"#")
            await asyncio.sleep(0.05)
        return response

    began = time.monotonic()
    assert (await look_at(drip, timeout_seconds=0.3)).reason == "Timeout"
    assert time.monotonic() - began < 2


async def test_a_port_where_nothing_listens_asks_whether_it_is_the_right_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/metrics"
    found = await look(url)
    assert found == Failure("ConnectionRefused", f"Nothing listens at {url}: is spec.metrics.port right?")


async def test_an_address_without_a_route_is_unreachable():
    # No connection leads to the broadcast address: the kernel itself refuses, no packet leaves.
    found = await look("http://255.255.255.255:8000/metrics")
    assert found.reason == "HostUnreachable"
    assert "NetworkPolicy" in found.message


async def test_a_redirect_is_not_followed():
    followed = []

    async def redirect(request):
        if "again" in request.query:
            followed.append(request)
        raise web.HTTPFound("/metrics?again=1")

    found = await look_at(redirect)
    assert found.reason == "Redirect"
    assert "HTTP 302" in found.message
    assert not followed


@pytest.mark.parametrize("status", [204, 404, 500, 503])
async def test_any_other_status_is_named(status):
    async def refuse(_):
        return web.Response(status=status, text="" if status == 204 else "loss 1\nsecret of the pod")

    found = await look_at(refuse)
    assert found.reason == "HTTPStatus"
    assert f"HTTP {status}" in found.message
    assert "secret" not in found.message


async def test_no_compression_is_asked_for_and_no_cookie_is_kept():
    seen = []

    async def show(request):
        seen.append(dict(request.headers))
        response = web.Response(text="loss 1\n")
        response.set_cookie("session", "1")
        return response

    async with page(show) as url, make_session() as session:
        await scrape(session, url, NAMES)
        await scrape(session, url, NAMES)
    assert [one["Accept-Encoding"] for one in seen] == ["identity", "identity"]
    assert not any("Cookie" in one for one in seen)


async def test_no_connection_is_kept_between_two_polls_though_the_server_would_keep_it():
    connections = []

    async def show(request):
        connections.append(request.transport)
        return web.Response(text="loss 1\n")

    async with page(show) as url, make_session() as session:
        for _ in range(2):
            assert await scrape(session, url, NAMES) == make_reading(loss=1.0)
    assert connections[0] is not connections[1]


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert await look_at("loss 1\n") == make_reading(loss=1.0)


def encoded(body, encoding):
    async def answer(_):
        return web.Response(body=body, headers={"Content-Encoding": encoding})

    return answer


async def test_a_page_that_comes_compressed_all_the_same_is_read():
    assert await look_at(encoded(gzip.compress(b"loss 1\n"), "gzip")) == make_reading(loss=1.0)


async def test_a_small_answer_that_inflates_beyond_the_cap_is_too_large():
    assert (await look_at(encoded(gzip.compress(b"a" * (64 << 20)), "gzip"))).reason == "TooLarge"


@pytest.mark.parametrize(
    ("body", "encoding", "reason"),
    [
        pytest.param(b"loss 1\n", "br", "ContentEncoding", id="an encoding that is not read"),
        pytest.param(b"loss 1\n", "gzip", "BadResponse", id="bytes that are not what they say"),
    ],
)
async def test_what_cannot_be_inflated_is_a_failure(body, encoding, reason):
    assert (await look_at(encoded(body, encoding))).reason == reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(b"", "Disconnected", id="a server that closes at once"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", "BadResponse", id="a server that speaks something else"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nloss 1\n",
            "BadResponse",
            id="a body that is shorter than said",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", "BadResponse", id="a header without an end"
        ),
    ],
)
async def test_a_broken_server_is_a_failure(answer, reason):
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        found = await look(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics")
    assert isinstance(found, Failure)
    assert found.reason == reason
