"""What a person's calls mean when the API server does not answer as it should."""

from __future__ import annotations

import base64
import json

import people
import pytest
from aiohttp import web
from fakes import ALL_RUNS, RUN, Plain, stored_run
from people import Someone

from trainingrun_operator.dashboard.cluster import Cluster, default_namespace
from trainingrun_operator.edge.apiserver import connection, transport
from trainingrun_operator.edge.apiserver.transport import KubeError


@pytest.mark.parametrize("payload", [{}, [], {"kubernetes.io": {}}, 7])
def test_only_a_service_accounts_token_names_a_namespace(payload):
    encoded = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    assert default_namespace(f"e30.{encoded}.x") == ""
    assert default_namespace("opaque") == ""


@pytest.fixture
async def ada():
    async with people.cluster(stored_run(), ada=Someone("ada")) as served, Cluster(Plain(served.url)) as cluster:
        person = cluster.person("ada")
        yield person, served


async def test_a_person_never_shows_their_token(ada):
    person, _ = ada
    assert "ada" not in repr(person)


async def test_a_busy_api_server_is_told_to_the_person_at_once(ada):
    person, served = ada
    served.refuse(f"GET {RUN}", web.Response(status=429, text="{}", headers={"Retry-After": "900"}))
    with pytest.raises(KubeError) as caught:
        await person.run("ml", "bert")
    assert caught.value.status == 429


async def test_whoever_the_process_is_a_person_is_asked_for_as_themselves(monkeypatch, tmp_path):
    (tmp_path / "token").write_text("operator")
    monkeypatch.setattr(connection, "TOKEN_FILE", tmp_path / "token")
    async with people.cluster(stored_run(), ada=Someone("ada")) as served:
        async with Cluster(Plain(served.url, token="operator")) as cluster:
            await cluster.person("ada").run("ml", "bert")
            await cluster.person("ada").runs("")
            with pytest.raises(KubeError, match="401"):
                await cluster.person("").run("ml", "bert")
        assert [sent.authorization for sent in served.sent] == ["Bearer ada"] * 2


@pytest.mark.parametrize("text", ["not JSON", "7"])
async def test_an_answer_that_is_not_kubernetes_is_called_so(ada, text):
    person, served = ada
    served.refuse(f"GET {RUN}", web.Response(text=text))
    with pytest.raises(KubeError, match="NotKubernetes"):
        await person.run("ml", "bert")


async def test_nobody_is_followed_elsewhere_with_a_token(ada):
    person, served = ada
    served.refuse(f"GET {RUN}", web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}))
    with pytest.raises(KubeError):
        await person.run("ml", "bert")


async def test_an_api_server_that_is_away_is_called_unreachable():
    async with Cluster(Plain("http://127.0.0.1:1")) as cluster:
        ada = cluster.person("ada")
        for call in (ada.run("ml", "bert"), anext(ada.watch_runs("", "1")), anext(ada.log("ml", "pod", "train", 1))):
            with pytest.raises(KubeError, match="Unreachable"):
                await call


async def test_a_watch_that_ends_goes_on_where_it_was(ada):
    person, served = ada
    event = {"type": "MODIFIED", "object": stored_run(resourceVersion="41")}
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "42"}}}
    served.refuse(f"GET {ALL_RUNS}", web.Response(text=json.dumps(event) + "\n\n" + json.dumps(bookmark) + "\n"))
    watch = person.watch_runs("", "7")
    assert await anext(watch) == ("MODIFIED", event["object"])
    served.refuse(f"GET {ALL_RUNS}", web.Response(text=json.dumps(event) + "\n"))
    await anext(watch)
    assert [sent.query["resourceVersion"] for sent in served.sent] == ["7", "42"]
    await watch.aclose()


async def test_an_event_of_any_size_is_read_whole_but_not_one_without_an_end(ada, monkeypatch):
    person, served = ada
    event = {"type": "MODIFIED", "object": {**stored_run(), "large": "x" * 300_000}}
    served.refuse(f"GET {ALL_RUNS}", web.Response(text=json.dumps(event) + "\n"))
    watch = person.watch_runs("", "7")
    assert (await anext(watch))[1]["large"] == "x" * 300_000
    await watch.aclose()
    monkeypatch.setattr(transport, "LINE_MAX", 1000)
    served.refuse(f"GET {ALL_RUNS}", web.Response(text="x" * 2000))
    with pytest.raises(KubeError, match="more than 1000 bytes"):
        await anext(person.watch_runs("", "7"))
