"""Which of the training's files has its loss, and what the agent may answer."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from builders import make_pod, make_run

from trainingrun_operator.api.exchange import MEASURED_MAX_BYTES, Measured, MeasuredFile, MeasuredValue
from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.core.facts.reading import Failure, Reading
from trainingrun_operator.edge.metrics import prometheus
from trainingrun_operator.edge.metrics.files import FileSource, PushSource, of_files
from trainingrun_operator.edge.metrics.log.words import names
from trainingrun_operator.edge.metrics.source import Target, Tools


def file(path="runs/events.out.tfevents.1", kind="TensorBoard", age=1.0, *, behind=False, **values):
    written = tuple(
        MeasuredValue(name=name.replace("__", "/"), value=str(value), step=step)
        for name, (value, step) in values.items()
    )
    return MeasuredFile(path=path, kind=kind, age_seconds=age, behind=behind, values=written)


def reads(*files, loss=None):
    found = of_files(files, names(MetricNames(loss=loss) if loss else MetricNames()))
    assert isinstance(found, Reading), found
    return found


HUGGING_FACE = file(train__loss=(1.5, 20), train__grad_norm=(2.0, 20), train__epoch=(0.5, 20), eval__loss=(0.5, 30))


def test_loss_step_epoch_and_norm_of_hugging_face_s_events():
    found = reads(HUGGING_FACE)
    assert (found.loss, found.step, found.epoch, found.gradient_norm) == (1.5, 20, 0.5, 2.0)
    assert found.values["eval_loss"] == 0.5


def test_the_step_is_the_loss_s_own():
    assert reads(file(loss=(1.5, 20), accuracy=(0.5, 30), step=(30.0, 30))).step == 20
    assert reads(file(loss=(1.5, None), step=(30.0, None))).step == 30


def test_a_norm_of_another_step_is_not_beside_the_loss():
    assert reads(file(loss=(1.5, 20), grad_norm=("nan", 10))).gradient_norm is None


@pytest.mark.parametrize(
    "name", ["train_loss", "train__loss", "Loss__train", "training_loss", "loss", "train_loss_step"]
)
def test_names_of_a_loss(name):
    assert reads(file(**{name: (1.5, 20)})).loss == 1.5


def test_names_that_the_spec_has():
    assert reads(file(ce=(1.5, 20), loss=(0.1, 20)), loss=("ce",)).loss == 1.5


@pytest.mark.parametrize(
    "one",
    [
        file(eval__loss=(0.5, 20)),
        file(Loss__test=(0.5, 20)),
        file("logs/validation/events.out.tfevents.1", loss=(0.5, 20)),
        file(aux_loss=(0.5, 20)),
        file(loss=("no number", 20)),
        file(kind="Later", loss=(0.5, 20)),
    ],
)
def test_what_is_not_clearly_the_training_s_loss_is_none(one):
    found = of_files([one], names(MetricNames()))
    assert isinstance(found, Failure)
    assert found.reason == "NoSuchMetric"


def test_without_files_it_is_said_which_ones_are_looked_for():
    found = of_files([], names(MetricNames()))
    assert isinstance(found, Failure)
    assert "trainer_state.json" in found.message


def test_of_several_kinds_the_most_prompt_counts_and_of_one_kind_the_newest():
    state = file("checkpoint-10/trainer_state.json", "TrainerState", 0.5, loss=(2.5, 10))
    old = file("runs/old/events.out.tfevents.1", age=500, loss=(0.1, 5))
    assert reads(state, old, HUGGING_FACE).loss == 1.5


def test_files_that_are_written_side_by_side_and_disagree_decide_nothing():
    found = of_files([HUGGING_FACE, file("rank1/events.out.tfevents.1", age=3, loss=(0.1, 20))], names(MetricNames()))
    assert isinstance(found, Failure)
    assert found.reason == "AmbiguousSeries"
    assert reads(HUGGING_FACE, file("copy/events.out.tfevents.1", age=3, loss=(1.5, 20))).loss == 1.5


def test_of_the_states_of_several_checkpoints_the_furthest_counts():
    states = [
        file(f"checkpoint-{step}/trainer_state.json", "TrainerState", age, loss=(1 / step, step))
        for step, age in ((8, 0.5), (24, 0.9), (16, 1.5))
    ]
    assert reads(*states).step == 24


def test_a_file_that_is_not_read_to_its_end_says_nothing_of_now():
    found = of_files([file(behind=True, loss=(0.1, 5))], names(MetricNames()))
    assert isinstance(found, Failure)
    assert found.reason == "FileBehind"


# -- the agent's answer ----------------------------------------------------------------------------------------------------


async def asked(answer, *, status=200, **pod):
    async def handle(_):
        return web.Response(body=answer, status=status)

    app = web.Application()
    app.router.add_get("/measured", handle)
    async with TestServer(app) as server, prometheus.make_session() as http:
        source = FileSource(Tools(http, logs=None), port=server.port or 0)  # type: ignore[arg-type] # no log is read
        return await source.read(Target(make_run(), make_pod(**{"ip": "127.0.0.1", **pod})))


def measured(uid):
    return Measured(pod_uid=uid, files=(HUGGING_FACE,)).model_dump_json(by_alias=True)


async def test_the_agent_of_the_pod_is_asked():
    found = await asked(measured(make_pod().uid))
    assert isinstance(found, Reading)
    assert (found.loss, found.step) == (1.5, 20)


@pytest.mark.parametrize(
    ("answer", "options", "reason"),
    [
        (measured("another"), {}, "BadResponse"),
        ("{}", {}, "BadResponse"),
        ("no json", {}, "BadResponse"),
        ("x" * (MEASURED_MAX_BYTES + 1), {}, "TooLarge"),
        ("", {"status": 404}, "HTTPStatus"),
        ("", {"rank": 1}, "OtherRank"),
        ("", {"ip": "127.0.0.2"}, "AgentUnreachable"),
    ],
)
async def test_any_other_answer_is_a_failure(answer, options, reason):
    found = await asked(answer, **options)
    assert isinstance(found, Failure)
    assert found.reason == reason


# -- what was posted -------------------------------------------------------------------------------------------------------


async def pushed_reading(pushed):
    async def handle(_):
        answer = Measured(pod_uid=make_pod().uid, pushed=pushed)
        return web.Response(body=answer.model_dump_json(by_alias=True))

    app = web.Application()
    app.router.add_get("/measured", handle)
    async with TestServer(app) as server, prometheus.make_session() as http:
        source = PushSource(Tools(http, logs=None), port=server.port or 0)  # type: ignore[arg-type] # no log is read
        return await source.read(Target(make_run(), make_pod(ip="127.0.0.1")))


async def test_what_a_training_posts_is_read():
    posted = file("", "Push", loss=(1.5, 20), current_step=(20, 20), current_epoch=(0.5, 20), eval_loss=(0.1, 20))
    found = await pushed_reading(posted)
    assert isinstance(found, Reading)
    assert (found.loss, found.step, found.epoch, found.values["eval_loss"]) == (1.5, 20, 0.5, 0.1)


@pytest.mark.parametrize(
    ("posted", "reason"), [(None, "NothingPushed"), (file("", "Push", total_steps=(100, None)), "NoSuchMetric")]
)
async def test_without_a_posted_loss_there_is_no_reading(posted, reason):
    found = await pushed_reading(posted)
    assert isinstance(found, Failure)
    assert found.reason == reason


async def test_the_push_of_a_pod_without_an_agent_is_a_failure():
    async with prometheus.make_session() as http:
        source = PushSource(Tools(http, logs=None), port=1)  # type: ignore[arg-type] # no log is read
        found = await source.read(Target(make_run(), make_pod(ip="127.0.0.1")))
    assert isinstance(found, Failure)
    assert found.reason == "AgentUnreachable"
