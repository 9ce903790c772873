"""Each event reaches the receiver at least once, always under one id, and a receiver in trouble is nobody else's trouble."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from builders import NAME, NAMESPACE, RUN_UID, STOP_ID, make_observed, make_run, make_stop
from fakes import RUN, ApiError, Plain, api_server, receiver, stored_run
from receiving import check, received
from standardwebhooks.webhooks import WebhookVerificationError

from trainingrun_operator.api.notification import CONTENT_TYPE, EventType
from trainingrun_operator.api.status import Phase, TrainingRunStatus
from trainingrun_operator.core import notification
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.signature import keys_of
from trainingrun_operator.edge.background import loop as worker
from trainingrun_operator.edge.background import webhook as module
from trainingrun_operator.edge.background.webhook import Notifier, Webhook
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.kube import Kube

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ENDED = f"{STOP_ID}-run-ended"
HOUR = 3600
SENT_AT = 1_767_323_100
"""When the first message of a test is sent, by the clock for people."""


def ended(**stop):
    return {
        "phase": "Succeeded",
        "termination": make_stop(Phase.DONE, **stop).dump(),
        "terminationStatus": "auto_low_loss",
        "terminationMessage": "Loss 0.2931 < 0.5 at step 1200.",
        "completionTime": "2026-01-02T03:04:00Z",
    }


@pytest.fixture
async def place():
    """A run that is over, an operator that knows it, and a receiver."""
    stored = stored_run(status=ended(), finalizers=[])
    async with (
        api_server(stored) as api,
        Kube(Plain(api.url)) as kube,
        receiver() as there,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
    ):
        cache = Cache()
        cache.put_run(stored)
        place = SimpleNamespace(
            api=api, kube=kube, there=there, cache=cache, now=1000.0, leads=True, counts=Counter(), types=frozenset(EventType)
        )  # fmt: skip

        def count(result):
            place.counts.update([result])

        def operator(url=there.url):
            hook = Webhook(f"{url}/events", keys_of(SECRET), place.types)
            return Notifier(
                hook, kube, cache, lambda: place.leads, count, lambda: place.now, lambda: 1_767_322_100.9 + place.now
            )

        async def tell():
            await place.notifier.tell(session)

        place.operator, place.notifier, place.tell = operator, operator(), tell
        yield place


def look(place, uid=RUN_UID):
    run = Run.of(place.cache.runs[uid])
    place.notifier.note(make_observed(run=run), run.status)


async def look_and_tell(place):
    look(place)
    await place.tell()


def ids(place):
    return [message.id for message in place.there.messages]


def stored(place):
    return place.api.objects[RUN]["status"].get("notified")


# -- telling ----------------------------------------------------------------------------------------------------


async def test_the_end_of_a_run_is_told_once_and_written_down(place):
    for _ in range(3):
        await look_and_tell(place)
    assert ids(place) == [ENDED]
    assert stored(place) == [ENDED]
    assert place.counts == {"sent": 1}


async def test_a_message_is_a_cloud_event_that_a_receiver_can_check(place):
    await look_and_tell(place)
    (message,) = place.there.messages
    assert message.path == "/events"
    assert message.headers["Content-Type"] == CONTENT_TYPE
    event = received(message.headers, message.body, SECRET, at=SENT_AT)
    data = event.get_data()
    assert isinstance(data, dict)
    assert event.get_id() == message.id == ENDED
    assert event.get_type() == "dev.trainingrun.run.ended"
    assert event.get_source() == RUN
    assert event.get_subject() == f"{NAMESPACE}/{NAME}"
    assert event.get_time() == datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    assert event.get_datacontenttype() == "application/json"
    assert (data["namespace"], data["name"]) == (NAMESPACE, NAME)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"body": b"{}"}, id="its body"),
        pytest.param({"webhook-id": "another"}, id="its id"),
        pytest.param({"webhook-timestamp": "1767323099"}, id="its time"),
    ],
)
async def test_a_message_that_was_changed_on_its_way_is_not_believed(place, changed):
    await look_and_tell(place)
    (message,) = place.there.messages
    body = changed.pop("body", message.body)
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        check({**message.headers, **changed}, body, SECRET, at=SENT_AT)


async def test_only_the_types_that_are_wanted_are_told(place):
    place.types = frozenset({EventType.CHECKPOINT_HELD})
    place.notifier = place.operator()
    await look_and_tell(place)
    assert place.there.messages == []


async def test_the_loop_tells_as_soon_as_there_is_something(place, monkeypatch):
    monkeypatch.setattr(worker, "LOOK_SECONDS", 600)
    monkeypatch.setattr(module, "make_session", aiohttp.ClientSession)
    loop = asyncio.create_task(place.notifier.run())
    await asyncio.sleep(0)
    async with asyncio.timeout(10), place.there.arrived:
        look(place)
        await place.there.arrived.wait()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert ids(place) == [ENDED]


async def test_proxies_of_the_environment_are_heeded_and_no_cookie_is_kept():
    async with module.make_session() as session:
        assert session.trust_env
        assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
        assert session.timeout.total == module.TIMEOUT_SECONDS


# -- again, and not again ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(web.Response(status=500), id="500"),
        pytest.param(web.Response(status=503), id="503"),
        pytest.param(web.Response(status=429), id="429"),
        pytest.param(web.Response(status=404), id="404"),
        pytest.param(web.Response(status=301, headers={"Location": "http://127.0.0.1:1/"}), id="a redirect"),
    ],
)
async def test_what_was_not_taken_is_told_again_under_the_same_id_with_a_signature_of_its_own_time(place, answer):
    place.there.answers.append(answer)
    await look_and_tell(place)
    assert stored(place) is None
    place.now += 1
    await look_and_tell(place)
    assert len(place.there.messages) == 1, "not before its time"
    place.now += 1
    await look_and_tell(place)
    first, second = place.there.messages
    assert first.id == second.id == ENDED
    assert first.body == second.body
    assert (first.headers["webhook-timestamp"], second.headers["webhook-timestamp"]) == ("1767323100", "1767323102")
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    for message, later in ((first, 0), (second, 2)):
        check(message.headers, message.body, SECRET, at=SENT_AT + later)
    assert (stored(place), place.counts) == ([ENDED], {"failed": 1, "sent": 1})


async def test_a_receiver_that_is_away_is_asked_less_and_less_often_for_an_hour(place, unused_tcp_port, caplog):
    place.notifier = place.operator(f"http://127.0.0.1:{unused_tcp_port}")
    tries, since = [], place.now
    look(place)
    while not place.counts["dropped"]:
        before = place.counts["failed"]
        await place.tell()
        if place.counts["failed"] > before:
            tries.append(place.now - since)
        place.now += 1
    assert tries[:9] == [0, 2, 6, 14, 30, 62, 126, 254, 510]
    assert {after - before for before, after in pairwise(tries[9:])} == {300}
    assert HOUR - 300 < tries[-1] <= HOUR
    assert "dropped an undeliverable event" in caplog.text
    assert ENDED in caplog.text
    await look_and_tell(place)
    assert place.counts["failed"] == len(tries), "The next look does not begin it again."


async def test_a_receiver_that_says_when_is_left_alone_until_then_with_everything(place):
    place.there.answers.append(web.Response(status=429, headers={"Retry-After": "120"}))
    await look_and_tell(place)
    other(place)
    look(place, "other-uid")
    place.now += 119
    await place.tell()
    assert len(place.there.messages) == 1
    place.now += 1
    await place.tell()
    assert sorted(ids(place)[1:]) == sorted([ENDED, "stop-other-uid-run-ended"])


@pytest.mark.parametrize("wait", ["Wed, 21 Oct 2026 07:28:00 GMT", "-5", ""])
async def test_when_it_says_no_number_of_seconds_it_is_tried_as_usual(place, wait):
    place.there.answers.append(web.Response(status=503, headers={"Retry-After": wait}))
    await look_and_tell(place)
    place.now += 2
    await place.tell()
    assert ids(place) == [ENDED] * 2


async def test_an_event_that_a_receiver_does_not_like_keeps_no_other_from_being_told(place):
    place.there.answers.append(web.Response(status=400))
    await look_and_tell(place)
    other(place)
    look(place, "other-uid")
    await place.tell()
    assert ids(place) == [ENDED, "stop-other-uid-run-ended"]


async def test_a_receiver_that_is_gone_for_good_is_told_nothing_any_more(place, caplog):
    place.there.answers.append(web.Response(status=410))
    await look_and_tell(place)
    other(place)
    place.now += HOUR
    await look_and_tell(place)
    look(place, "other-uid")
    await place.tell()
    assert len(place.there.messages) == 1
    assert "410 Gone" in caplog.text
    assert place.counts == {"failed": 1, "dropped": 1}


async def test_address_and_secret_are_in_no_log(place, caplog, unused_tcp_port):
    place.notifier = place.operator(f"http://127.0.0.1:{unused_tcp_port}/very-secret-path")
    await look_and_tell(place)
    assert "ClientConnectorError" in caplog.text
    assert "very-secret-path" not in caplog.text + repr(Webhook("https://ops/very-secret-path", keys_of(SECRET)))


def other(place):
    """Another run that is over, which the API server has as well."""
    stored = stored_run(status=ended(id="stop-other-uid"), finalizers=[], name="gpt", uid="other-uid")
    place.api.put(stored)
    place.cache.put_run(stored)


# -- at least once ----------------------------------------------------------------------------------------------


async def test_an_operator_that_starts_tells_what_the_one_before_did_not(place):
    look(place)
    place.notifier = place.operator()
    await look_and_tell(place)
    assert ids(place) == [ENDED]


async def test_an_operator_that_starts_does_not_tell_what_is_written_down(place):
    await look_and_tell(place)
    place.notifier = place.operator()
    await look_and_tell(place)
    assert ids(place) == [ENDED]


async def test_what_was_told_and_not_written_down_is_told_again_by_the_next_operator_under_the_same_id(place):
    place.api.refuse(f"PATCH {RUN}/status", ApiError(500, "InternalError"))
    await look_and_tell(place)
    place.notifier = place.operator()
    await look_and_tell(place)
    assert ids(place) == [ENDED] * 2
    assert stored(place) == [ENDED]


async def test_what_was_told_is_written_down_later_without_being_told_again(place):
    place.api.refuse(f"PATCH {RUN}/status", ApiError(422, "Invalid"))
    await look_and_tell(place)
    assert stored(place) is None
    place.now += 2
    await look_and_tell(place)
    assert (ids(place), stored(place)) == ([ENDED], [ENDED])


async def test_what_cannot_be_written_down_for_an_hour_is_let_be(place):
    place.api.before = lambda sent: place.api.refuse(f"PATCH {RUN}/status", ApiError(500, "InternalError"))
    look(place)
    for _ in range(20):
        await place.tell()
        place.now += 301
    assert ids(place) == [ENDED]
    assert place.counts == {"sent": 1}
    assert not place.notifier._pending


async def test_a_look_that_began_before_it_was_written_down_does_not_bring_it_again(place):
    run = Run.of(place.cache.runs[RUN_UID])
    await look_and_tell(place)
    place.notifier.note(make_observed(run=run), run.status)
    await place.tell()
    assert ids(place) == [ENDED]


async def test_the_end_of_a_run_that_is_gone_already_is_told_all_the_same(place):
    look(place)
    place.cache.forget_run(RUN_UID)
    place.notifier.forget(RUN_UID)
    await place.tell()
    assert ids(place) == [ENDED]
    assert place.api.lines("PATCH") == []
    assert not place.notifier._pending


async def test_a_run_that_goes_meanwhile_is_not_written_to(place):
    place.api.objects.clear()
    await look_and_tell(place)
    assert ids(place) == [ENDED]
    assert not place.notifier._pending


async def test_of_a_suspension_that_is_over_nothing_is_written_down(place):
    status = ended(id="suspend-1", status="suspended", data_loss="Step 7.") | {"completionTime": None}
    status = TrainingRunStatus.parse({k: v for k, v in status.items() if v is not None})
    place.notifier.note(make_observed(run=make_run(status=status), wall="2026-01-02T03:00:05Z"), status)
    await place.tell()
    assert ids(place) == ["suspend-1-data-lost"]
    assert place.api.lines("PATCH") == []


async def test_who_does_not_lead_tells_nothing(place):
    look(place)
    place.leads = False
    await place.tell()
    place.leads = True
    place.notifier.forget_all()
    await place.tell()
    assert place.there.messages == []


async def test_a_write_is_of_this_run_and_this_phase_alone(place):
    await look_and_tell(place)
    (sent,) = [sent for sent in place.api.sent if sent.method == "PATCH"]
    assert sent.body == [
        {"op": "test", "path": "/metadata/uid", "value": RUN_UID},
        {"op": "test", "path": "/status/termination/phase", "value": "Done"},
        {"op": "add", "path": "/status/notified", "value": [ENDED]},
    ]
    assert place.cache.runs[RUN_UID]["status"]["notified"] == [ENDED]


# -- nobody else's trouble --------------------------------------------------------------------------------------


async def test_a_status_that_makes_no_event_does_not_disturb_the_look(place, caplog):
    run = make_run(name="n" * 300, status=TrainingRunStatus.parse(ended()))
    place.notifier.note(make_observed(run=run), run.status)
    assert "invalid event" in caplog.text


async def test_a_bug_costs_one_event(place, monkeypatch, caplog):
    monkeypatch.setattr(notification, "recorded", lambda *_: 1 / 0)
    await look_and_tell(place)
    assert "ZeroDivisionError" in caplog.text
    assert not place.notifier._pending
