"""A run's story on a real S3 server: written once, by compare, whatever fails and wherever the operator is killed; and read again by the plugin."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import Any

import pytest
import s3server
from botocore.exceptions import ClientError
from builders import checkpoint_spec, exited_pod, make_observed, make_run, make_saved, make_status, make_stop
from retaining import Events, Reader
from shipment import RUN, Shipment

from trainingrun_operator.api import names
from trainingrun_operator.api.curve import Curve, Point
from trainingrun_operator.api.status import SUSPENDED, Phase
from trainingrun_operator.checkpoints import story as objects
from trainingrun_operator.checkpoints.keys import Layout, Order
from trainingrun_operator.cli.main import run as main
from trainingrun_operator.cli.trouble import Exit
from trainingrun_operator.core import curve as curves
from trainingrun_operator.core.facts.rank import Rank
from trainingrun_operator.core.facts.run import Problem
from trainingrun_operator.edge.background import story as module
from trainingrun_operator.edge.background.story import Story
from trainingrun_operator.edge.gather.store import Access, Store
from trainingrun_operator.edge.kube import KubeError

pytestmark = [pytest.mark.s3, pytest.mark.asyncio(loop_scope="module")]

LINES = b"step 1\nprint-of-a-secret\nstep 2\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3server.running(tmp_path_factory.mktemp("s3") / "buckets") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    made = server.client()
    yield made
    made.close()


@pytest.fixture(scope="module")
def store():
    made = Store(threads=4)
    yield made
    made.close()


@dataclass
class Kube(Events):
    """What the story needs of the API server."""

    log: bytes | KubeError = LINES
    curve: dict[str, Any] | None = None
    asked: list[str] = field(default_factory=list)

    async def log_end(self, namespace, name, container, *, most_bytes):
        self.asked.append(f"{namespace}/{name}/{container} {most_bytes}")
        if isinstance(self.log, KubeError):
            raise self.log
        return self.log

    async def config_map(self, namespace, name):
        return self.curve


class Place:
    """One run that ends, and the operator that tells of it."""

    def __init__(self, client, store, access, bucket):
        self.client, self.store, self.access, self.bucket = client, store, access, bucket
        self.layout = Layout.of(f"s3://{bucket}/team/a", RUN.namespace, RUN.name, RUN.uid)
        client.create_bucket(Bucket=bucket)
        points = (
            Point(at="2026-01-01T00:00:00Z", step=1, loss=2.0),
            Point(at="2026-01-01T00:00:10Z", step=2, loss=1.0),
        )
        self.kube = Kube(curve=curves.config_map(RUN.namespace, RUN.name, RUN.uid, Curve(points=points)))
        self.now, self.leads = 0.0, True
        self.story = self.make()

    def make(self):
        """A new operator."""
        return Story(self.kube, self.store, Reader(self.access), lambda: self.leads, lambda: self.now)  # type: ignore[arg-type]

    def seen(self, phase: Phase, *, exited=False, ranks=1, spec=None, **stop):
        status = make_status(
            termination=make_stop(phase, **({"saved": make_saved()} | stop)),
            phase="Succeeded" if phase is Phase.DONE else "Stopping",
        )
        of = {"checkpoint": checkpoint_spec(destination=f"s3://{self.bucket}/team/a")} | (spec or {})
        run = make_run(spec=of, status=status, namespace=RUN.namespace, name=RUN.name, uid=RUN.uid)
        pods = [exited_pod(name=f"llama-{rank}", rank=rank) for rank in range(ranks)] if exited else []
        return make_observed(run=run, ranks=tuple(Rank.of(rank, [pod]) for rank, pod in enumerate(pods)) or (Rank(),))

    def note(self, phase, **more):
        seen = self.seen(phase, **more)
        self.story.note(seen, seen.run.status)

    async def rounds(self, count=3):
        for _ in range(count):
            await self.story.work()
            self.now += 1000

    def objects(self):
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.layout.base)
        return sorted(item["Key"].removeprefix(self.layout.base) for item in listed.get("Contents", ()))

    def read(self, key):
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()


@pytest.fixture
def access(server):
    return Access(server.endpoint_url, server.region, server.access_key, server.secret_key, owner="ml")


@pytest.fixture
def place(client, store, access, request):
    return Place(client, store, access, f"story-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}")


async def test_a_run_that_ends_leaves_its_story_its_curve_and_the_end_of_its_log(place):
    place.note(Phase.SAVING, exited=True)
    await place.rounds()
    assert place.objects() == ["log.txt.gz"], "the pod is still there to be read"
    place.note(Phase.DONE)
    await place.rounds()
    assert place.objects() == ["curve.json", "log.txt.gz", "run.json"]
    assert gzip.decompress(place.read(place.layout.log())) == LINES
    assert [point.step for point in Curve.model_validate_json(place.read(place.layout.curve)).points] == [1, 2]
    told = json.loads(place.read(place.layout.story))
    assert told["status"]["termination"]["message"] == "Loss 0.2931 < 0.5 at step 1200."
    assert place.kube.asked == [f"ml/llama-0/train {10 * 10**6}"]
    assert place.kube.told == []


async def test_every_rank_leaves_the_end_of_its_log_and_rank_0_the_longest(place):
    place.note(Phase.SAVING, exited=True, ranks=3)
    await place.rounds()
    assert place.objects() == ["log-1.txt.gz", "log-2.txt.gz", "log.txt.gz"]
    assert gzip.decompress(place.read(place.layout.log(2))) == LINES
    assert place.kube.asked == [
        "ml/llama-0/train 10000000",
        "ml/llama-1/train 1000000",
        "ml/llama-2/train 1000000",
    ]


@pytest.mark.parametrize("phase", [Phase.REQUESTED, Phase.DRAINING, Phase.VERIFYING, Phase.RELEASING])
async def test_nothing_is_told_of_a_run_before_its_end(place, phase):
    place.note(phase)
    await place.rounds()
    assert place.objects() == []


async def test_a_suspended_run_has_no_story(place):
    place.note(Phase.SAVING, exited=True, status=SUSPENDED)
    place.note(Phase.DONE, exited=True, status=SUSPENDED)
    await place.rounds()
    assert place.objects() == []


async def test_what_is_there_is_never_overwritten(place):
    for key in (place.layout.story, place.layout.curve, place.layout.log()):
        place.client.put_object(Bucket=place.bucket, Key=key, Body=b"written before")
    place.note(Phase.DONE, exited=True)
    await place.rounds()
    assert {place.read(key) for key in (place.layout.story, place.layout.curve, place.layout.log())} == {
        b"written before"
    }
    assert place.kube.asked == [], "no log is read that would not be kept"
    assert place.kube.told == []


async def test_an_operator_that_is_killed_between_two_objects_is_continued_by_the_next(place, monkeypatch):
    class KilledError(BaseException):
        pass

    real = objects.create

    def create(layout, key, body, kind, client):
        real(layout, key, body, kind, client)
        raise KilledError

    for _ in range(3):
        monkeypatch.setattr(objects, "create", create)
        place.story = place.make()
        place.note(Phase.DONE, exited=True)
        place.now += 1000
        with pytest.raises(KilledError):
            await place.story.work()
        before = place.objects()
        monkeypatch.setattr(objects, "create", real)
        place.note(Phase.DONE, exited=True)
        await place.rounds()
        assert set(before) < set(place.objects())
        for key in place.objects():
            place.client.delete_object(Bucket=place.bucket, Key=f"{place.layout.base}{key}")


@pytest.mark.parametrize("status", [403, 404, 400])
async def test_without_the_right_to_read_the_log_the_rest_is_told(place, status):
    place.kube.log = KubeError(status, "Forbidden", "pods/log")
    place.note(Phase.DONE, exited=True)
    await place.rounds()
    assert place.objects() == ["curve.json", "run.json"]
    assert place.kube.told == []


async def test_an_api_server_that_does_not_answer_is_asked_again(place):
    place.kube.log = KubeError(500, "InternalError", "no")
    place.note(Phase.DONE, exited=True)
    await place.rounds(2)
    place.kube.log = LINES
    await place.rounds()
    assert place.objects() == ["curve.json", "log.txt.gz", "run.json"]


@pytest.mark.parametrize(
    "curve",
    [
        pytest.param(None, id="none"),
        pytest.param(curves.config_map("ml", "llama", "another-uid", Curve()), id="another run's"),
        pytest.param({"metadata": {"ownerReferences": [{"uid": RUN.uid}]}, "data": {names.CURVE_KEY: "no JSON"}}, id="no JSON"),
        pytest.param({"metadata": {"ownerReferences": [{"uid": RUN.uid}]}}, id="empty"),
    ],
)  # fmt: skip
async def test_a_curve_that_is_none_is_left_out(place, curve):
    place.kube.curve = curve
    place.note(Phase.DONE)
    await place.rounds()
    assert place.objects() == ["run.json"]


@pytest.fixture
def refusing(monkeypatch):
    def refuse(layout, key, body, kind, client):
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "a body"}}, "PutObject")

    monkeypatch.setattr(objects, "create", refuse)


async def test_without_the_right_to_put_it_is_said_once(place, refusing):
    for _ in range(3):
        place.note(Phase.SAVING, exited=True)
        place.note(Phase.DONE, exited=True)
        await place.rounds()
    assert place.objects() == []
    ((reason, said),) = place.kube.told
    assert reason == "StoryNotKept"
    assert "may not be written (AccessDenied)" in said
    assert "Its checkpoints are" in said
    assert "a body" not in said


async def test_a_bucket_that_never_answers_is_given_up(place, monkeypatch, caplog):
    caplog.set_level(logging.INFO)

    def fail(layout, key, body, kind, client):
        raise ClientError({"Error": {"Code": "SlowDown"}}, "PutObject")

    monkeypatch.setattr(objects, "create", fail)
    place.note(Phase.DONE)
    await place.rounds(module.TRIES + 3)
    assert [reason for reason, _ in place.kube.told] == ["StoryNotKept"]
    assert "(SlowDown)" in place.kube.told[0][1] or "SlowDown" in place.kube.told[0][1]


async def test_a_run_that_is_deleted_when_it_has_ended_is_still_told(place):
    place.note(Phase.DONE)
    place.story.forget(RUN.uid)
    await place.rounds()
    assert place.objects() == ["curve.json", "run.json"]
    assert place.story._tales == {}


async def test_a_deletion_waits_for_nothing_and_leaves_nothing_behind(place, refusing):
    place.note(Phase.SAVING)
    place.story.forget(RUN.uid)
    assert place.story._tales == {}
    place.note(Phase.DONE)
    place.story.forget(RUN.uid)
    await place.rounds()
    assert place.story._tales == {}


async def test_without_credentials_it_is_said(client, store, request):
    problem = Problem("SecretNotFound", "there is no such Secret")
    place = Place(client, store, problem, f"story-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}")
    place.note(Phase.DONE)
    await place.rounds()
    assert "there is no such Secret" in place.kube.told[0][1]


async def test_an_operator_that_does_not_lead_writes_nothing(place):
    place.leads = False
    place.note(Phase.DONE, exited=True)
    await place.rounds()
    assert place.objects() == []


async def test_a_run_that_ended_long_ago_costs_no_request_after_a_restart(place, requests_made):
    seen = place.seen(Phase.DONE)
    old = seen.run.status.model_copy(update={"completion_time": "2020-01-01T00:00:00Z"})
    place.story.note(seen, old)
    await place.rounds()
    assert requests_made() == {}


# -- the plugin, from the bucket alone ----------------------------------------------------------------------------


@pytest.fixture
def plugin(server, monkeypatch, capsys, caplog):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        code = main([*arguments, "--endpoint-url", server.endpoint_url])
        return code, *capsys.readouterr()

    return call


def in_thread(call, *arguments):
    """The plugin has a loop of its own."""
    import threading  # noqa: PLC0415

    said: list[Any] = []
    thread = threading.Thread(target=lambda: said.append(call(*arguments)))
    thread.start()
    thread.join()
    return said[0]


@pytest.mark.parametrize("address", ["s3://{}/team/a/ml/llama/1f0c", "s3://{}/team/a/", "s3://{}/team", "s3://{}"])
async def test_a_run_is_explained_and_listed_from_the_bucket_alone_by_a_short_address(place, plugin, address):
    Shipment(place.client, place.layout, Order(1, 1)).send()
    place.note(Phase.DONE, exited=True)
    await place.rounds()
    code, out, err = in_thread(plugin, "explain", address.format(place.bucket))
    assert (code, err) == (0, "")
    assert out.startswith("llama ended as auto_low_loss")
    assert "Loss 0.2931 < 0.5 at step 1200." in out
    assert f"aws s3 cp {place.layout.uri(place.layout.log())} - | gunzip" in out
    assert "print-of-a-secret" not in out
    code, out, err = in_thread(plugin, "checkpoints", "list", address.format(place.bucket))
    assert (code, err) == (0, "")
    assert "i1-g0001" in out


@pytest.mark.parametrize("address", ["s3://{}/team/a/ml/llama/1f0c", "s3://{}"])
async def test_the_loss_of_a_run_is_drawn_from_the_bucket_alone(place, plugin, address):
    Shipment(place.client, place.layout, Order(1, 1)).send()
    place.note(Phase.DONE)
    await place.rounds()
    code, out, err = in_thread(plugin, "plot", address.format(place.bucket), "--height", "4")
    assert (code, err) == (0, "")
    assert out.startswith("llama: loss 1 at step 2, the lowest so far, auto_low_loss\n")
    assert [line.split("┤")[0].strip() for line in out.splitlines() if "┤" in line] == ["2", "1.333", "1"]


@pytest.mark.parametrize("address", ["s3://NO/x", "s3://{}/team//a", "s3://{}/nothing/here/at/all"])
async def test_plot_refuses_an_address_as_explain_does(place, plugin, address):
    code, out, err = in_thread(plugin, "explain", address.format(place.bucket))
    assert (code in {Exit.USAGE, Exit.NO_SUCH_RUN}, out) == (True, "")
    assert in_thread(plugin, "plot", address.format(place.bucket)) == (code, out, err)


async def test_a_story_without_a_curve_has_nothing_to_draw_and_says_what_it_has(place, plugin):
    place.kube.curve = None
    Shipment(place.client, place.layout, Order(1, 1)).send()
    place.note(Phase.DONE)
    await place.rounds()
    code, out, err = in_thread(plugin, "plot", f"s3://{place.bucket}/team")
    assert (code, out) == (Exit.NO_SUCH_RUN, "")
    where = f"s3://{place.bucket}/{place.layout.base}"
    assert err.startswith(f"error: There is no curve.json at {where}: ")
    assert f"explain {where}" in err


async def test_the_logs_that_are_kept_are_named_and_no_other_object(place, plugin):
    Shipment(place.client, place.layout, Order(1, 1)).send()
    place.note(Phase.DONE, exited=True, ranks=3)
    await place.rounds()
    for name in ("log-01.txt.gz", "log-7.txt", "logs/log-9.txt.gz"):
        place.client.put_object(Bucket=place.bucket, Key=f"{place.layout.base}{name}", Body=b"x")
    code, out, err = in_thread(plugin, "explain", f"s3://{place.bucket}/team")
    assert (code, err) == (0, "")
    assert "The end of its log (2 other ranks have theirs, up to log-2.txt.gz):" in out


async def test_several_runs_below_an_address_are_named(place, plugin):
    Shipment(place.client, place.layout, Order(1, 1)).send()
    other = Layout.of(f"s3://{place.bucket}/team/b", "ml", "bert", "77")
    Shipment(place.client, other, Order(1, 1)).send()
    code, out, err = in_thread(plugin, "explain", f"s3://{place.bucket}/team")
    assert (code, out) == (Exit.USAGE, "")
    assert f"There are several runs below s3://{place.bucket}/team. Name one:" in err
    assert f"  s3://{place.bucket}/team/a/ml/llama/1f0c\n  s3://{place.bucket}/team/b/ml/bert/77" in err


async def test_a_run_without_a_story_is_said_to_have_none(place, plugin):
    Shipment(place.client, place.layout, Order(1, 1)).send()
    code, out, err = in_thread(plugin, "explain", f"s3://{place.bucket}/team")
    assert (code, out) == (Exit.NO_SUCH_RUN, "")
    assert "There is no run.json at" in err
    assert "checkpoints list" in err


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        b'{"metadata": {}, "spec": {}}',
        b"[" * 100_000,
        b"x" * (2 << 20),
        b'{"metadata":{"namespace":"a","name":"b","uid":"c"},"spec":{"template":{},"checkpoint":{}}}',
    ],
    ids=["empty", "no JSON", "a list", "nothing", "no names", "deep", "long", "another run's"],
)
async def test_a_story_that_is_none_is_refused_in_words(place, plugin, body):
    Shipment(place.client, place.layout, Order(1, 1)).send()
    place.client.put_object(Bucket=place.bucket, Key=place.layout.story, Body=body)
    code, out, err = in_thread(plugin, "explain", f"s3://{place.bucket}/team")
    assert (code, out) == (Exit.NOT_PROVEN, "")
    assert "run.json is" in err
    assert len(err) < 500
