"""The table of runs: what of a thousand of them one page shows, and what that costs."""

from __future__ import annotations

import asyncio
import re
import sys
import time

import people
import pytest
from builders import NAMESPACE
from fakes import ALL_RUNS, ApiError, stored_run
from people import Someone, run_status

from trainingrun_operator.api.run import RESOURCE
from trainingrun_operator.dashboard.fleet import PAGE_ROWS, Query, page_of, row_of

COLUMNS = ("Name", *(column.name for column in RESOURCE.columns))
PHASES = ("Running", "Succeeded", "Held", "Pending")


def a_run(number=0, phase="Running", namespace=NAMESPACE, **progress):
    said = {"loss": f"0.{number:04d}", "step": number, "percent": number % 101}
    return stored_run(
        name=f"run-{number:04d}",
        namespace=namespace,
        uid=f"uid-{number}",
        creationTimestamp=f"2026-01-02T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z",
        status=run_status(phase, progress=said | progress),
    )


def rows(*stored):
    return [row_of(COLUMNS, one) for one in people.table(list(stored), "1")["rows"]]


FLEET = rows(*(a_run(number, PHASES[number % 4]) for number in range(1000)))


def names(query):
    return [row.name for row in page_of(FLEET, query).rows]


# -- rows -----------------------------------------------------------------------------------------------------


def test_a_row_is_read_by_the_names_of_its_columns_wherever_they_are():
    stored = {
        "object": {"metadata": {"uid": "u", "namespace": "ml", "name": "x", "creationTimestamp": "t"}},
        "cells": ["Held", 7, "new", None],
    }
    row = row_of(("Phase", "Step", "Unheard of", "Loss"), stored)
    assert (row.phase, row.step, row.loss, row.percent) == ("Held", 7, "", None)


# -- what a page shows ------------------------------------------------------------------------------------------


def test_a_page_has_fifty_rows_and_knows_how_many_there_are():
    page = page_of(FLEET, Query(page=20))
    assert (len(page.rows), page.found, page.total, page.page, page.pages) == (PAGE_ROWS, 1000, 1000, 20, 20)
    assert page_of(FLEET, Query(page=999)).page == 20
    assert page_of([], Query()).pages == 1


def test_states_are_counted_in_the_order_in_which_somebody_should_look():
    assert page_of(FLEET, Query()).counts == (("Held", 250), ("Running", 250), ("Pending", 250), ("Succeeded", 250))
    assert ("Failed", 0) in page_of(FLEET, Query(state="Failed")).counts, "What was chosen can be left again."


def test_runs_are_found_by_every_word_of_name_namespace_and_outcome():
    assert names(Query(text="0007")) == ["run-0007"]
    assert page_of(FLEET, Query(text=f"{NAMESPACE}/run held")).found == 250
    assert page_of(FLEET, Query(text="held 0002 nothing")).found == 0
    assert page_of(FLEET, Query(state="Held")).found == 250


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("new", "run-0999"),
        ("old", "run-0000"),
        ("name", "run-0000"),
        ("state", "run-0002"),
        ("progress", "run-0100"),
        ("loss", "run-0000"),
    ],
)
def test_runs_are_ordered(sort, first):
    assert names(Query(sort=sort))[0] == first


def test_a_loss_that_is_no_number_comes_last():
    odd = rows(a_run(1, loss="nan"), a_run(2, loss=None), a_run(3, loss="0.5"))
    assert page_of(odd, Query(sort="loss")).rows[0].name == "run-0003"


@pytest.mark.parametrize(
    ("params", "query"),
    [
        ({}, Query()),
        ({"q": " a ", "state": "Held", "namespace": "ml", "sort": "loss", "page": "3"}, Query("ml", "a", "Held", "loss", 3)),
        pytest.param({"page": "-1", "sort": "colour"}, Query(), id="what makes no sense is taken for absent"),
        pytest.param({"page": "²"}, Query(), id="a digit that is no number"),
        pytest.param({"page": "9" * 99}, Query(), id="a page that no fleet has"),
    ],
)  # fmt: skip
def test_an_address_says_what_is_shown(params, query):
    assert Query.of(params) == query


def test_another_choice_goes_back_to_the_first_page():
    query = Query(namespace="ml", state="Held", page=3)
    assert query.address(page=4) == "?namespace=ml&state=Held&page=4"
    assert query.address(state="Running") == "?namespace=ml&state=Running"
    assert Query().address() == "?"


# -- over HTTP --------------------------------------------------------------------------------------------------


async def test_a_thousand_runs_make_a_small_page(visit, capsys):
    stored = [a_run(number, PHASES[number % 4]) for number in range(1000)]
    async with people.cluster(*stored, ada=Someone("ada")) as cluster, visit(cluster) as ada:
        began = time.perf_counter()
        page = await ada.get("/")
        took = time.perf_counter() - began
        lists = cluster.lines("GET")
    with capsys.disabled():
        sys.stderr.write(
            f"\nfleet of 1,000 runs: {len(page.text) / 1000:.0f} kB, {took * 1000:.0f} ms, {len(lists)} lists of at most 500\n"
        )
    assert page.text.count('<tr id="row-') == PAGE_ROWS
    assert "1,000 runs, page 1 of 20" in page.text
    assert len(page.text) < 100_000
    assert lists == [f"GET {ALL_RUNS}"] * 2, "Two chunks of 500, as tables."


async def test_a_row_says_what_its_run_does(visit):
    stored = stored_run(status=run_status())
    async with people.cluster(stored, ada=Someone("ada")) as cluster, visit(cluster) as ada:
        text = (await ada.get("/")).text
    row = re.sub(r"<[^>]+>|\s+", " ", text[text.index('<tr id="row-') : text.index("</tbody>")])
    assert row.split() == [
        "bert",
        "ml",
        "Running",
        "0.4123",
        "target",
        "0.3",
        "1,180",
        "66",
        "%",
        "10",
        "min",
        "left",
        "2026-01-02",
        "03:00:00",
        "UTC",
    ]


async def test_an_empty_cluster_and_an_empty_search_say_so(visit):
    async with people.cluster(ada=Someone("ada")) as cluster, visit(cluster) as ada:
        assert "There are no TrainingRuns yet" in (await ada.get("/")).text
        cluster.put(stored_run())
        assert "No run matches." in (await ada.get("/?q=nothing")).text


async def test_who_may_list_only_one_namespace_is_asked_which(visit):
    only = Someone("eve", namespace=NAMESPACE)
    async with people.cluster(stored_run(), ada=only) as cluster, visit(cluster) as eve:
        asked = await eve.get("/")
        assert asked.status == 403
        assert "You may not list the TrainingRuns of all namespaces. Enter your namespace:" in asked.text
        assert ">bert</a>" in (await eve.get(f"/?namespace={NAMESPACE}")).text
        other = await eve.get("/?namespace=other")
        assert (other.status, "You may not list the TrainingRuns of namespace “other”" in other.text) == (403, True)


async def test_a_service_account_is_led_to_its_own_namespace(visit):
    token = "e30.eyJrdWJlcm5ldGVzLmlvIjp7Im5hbWVzcGFjZSI6Im1sIn19.c2ln"
    async with people.cluster(stored_run()) as cluster, visit(cluster, token) as account:
        cluster.people[token] = Someone("system:serviceaccount:ml:eve", namespace=NAMESPACE)
        answer = await account.get("/")
    assert (answer.status, answer.headers["Location"]) == (303, "/?namespace=ml")


async def test_a_namespace_that_is_no_name_is_not_asked_for(visit):
    async with people.cluster(stored_run(), ada=Someone("ada")) as cluster, visit(cluster) as ada:
        assert (await ada.get("/?namespace=../../api/v1/secrets")).status == 404
        assert (await ada.get("/runs/ml/%2e%2e")).status == 404
    assert not cluster.lines("GET")


async def test_an_api_server_that_does_not_answer_is_said(visit):
    async with people.cluster(ada=Someone("ada")) as cluster, visit(cluster) as ada:
        cluster.refuse(f"GET {ALL_RUNS}", ApiError(503, "ServiceUnavailable", "not now"))
        answer = await ada.get("/")
    assert (answer.status, "The API server is busy" in answer.text) == (502, True)


# -- live -------------------------------------------------------------------------------------------------------


async def test_a_run_that_changes_is_sent_alone_and_one_that_comes_brings_the_table(visit):
    async with (
        people.cluster(a_run(1), a_run(2), ada=Someone("ada")) as cluster,
        visit(cluster) as ada,
        ada.events("/events") as page,
    ):
        assert page.answer.headers["Content-Type"].startswith("text/event-stream")
        assert page.answer.headers["X-Accel-Buffering"] == "no"
        assert (await page.wait("part", '"rows"'))["html"].count("<tr") == 2
        await page.wait("well")
        await cluster.tell("MODIFIED", a_run(2, "Held"))
        row = await page.wait("part", "row-uid-2")
        assert (row["id"], row["html"].count("<tr"), "Held" in row["html"]) == ("row-uid-2", 1, True)
        await cluster.tell("ADDED", a_run(3))
        assert (await page.wait("part", '"rows"'))["html"].count("<tr") == 3
        await cluster.tell("DELETED", a_run(3))
        assert (await page.wait("part", '"rows"'))["html"].count("<tr") == 2
    assert cluster.lines("GET") == [f"GET {ALL_RUNS}"] * 2, "One list and one watch."


async def test_only_the_page_that_is_looked_at_is_sent(visit):
    stored = [a_run(number) for number in range(60)]
    async with (
        people.cluster(*stored, ada=Someone("ada")) as cluster,
        visit(cluster) as ada,
        ada.events("/events?page=2") as page,
    ):
        assert (await page.wait("part", '"rows"'))["html"].count("<tr") == 10


async def test_a_fleet_that_cannot_be_listed_any_more_says_why_and_comes_back(visit, monkeypatch):
    monkeypatch.setattr("trainingrun_operator.dashboard.feeds.RETRY_SECONDS", 0.01)
    async with people.cluster(a_run(1), ada=Someone("ada")) as cluster, visit(cluster) as ada:
        cluster.refuse(f"GET {ALL_RUNS}", ApiError(500, "InternalError", "etcd is away"))
        async with ada.events("/events") as page:
            assert (await page.wait("trouble"))["text"] == "The API server answered 500 InternalError: etcd is away"
            await page.wait("well")


async def test_a_version_that_is_too_old_is_listed_again_without_a_word(visit, monkeypatch):
    monkeypatch.setattr("trainingrun_operator.dashboard.feeds.RETRY_SECONDS", 0.01)
    async with people.cluster(a_run(1), ada=Someone("ada")) as cluster, visit(cluster) as ada:
        asked = iter([None, ApiError(410, "Expired", "too old resource version")])

        def before(sent):
            if (refusal := next(asked, None)) is not None:
                cluster.refuse(f"GET {ALL_RUNS}", refusal)

        cluster.before = before
        async with ada.events("/events") as page:
            await page.wait("well")
            async with asyncio.timeout(10):
                while len(cluster.lines("GET")) < 4:  # noqa: ASYNC110 - a list and a watch, twice; the page is told nothing
                    await asyncio.sleep(0.01)
            await cluster.tell("ADDED", a_run(2))
            await page.wait("part", "run-0002")
    assert "trouble" not in [name for name, _ in page.seen]


async def test_a_login_that_expires_while_somebody_looks_is_said(visit, monkeypatch):
    monkeypatch.setattr("trainingrun_operator.dashboard.feeds.RETRY_SECONDS", 0.01)
    async with (
        people.cluster(a_run(1), ada=Someone("ada")) as cluster,
        visit(cluster) as ada,
        ada.events("/events") as page,
    ):
        await page.wait("well")
        cluster.people.pop("ada")
        await cluster.tell("ERROR", {**a_run(1), "code": 410, "reason": "Expired", "message": ""})
        trouble = await page.wait("trouble")
        assert ("log in again" in trouble["text"], trouble["login"]) == (True, True)
