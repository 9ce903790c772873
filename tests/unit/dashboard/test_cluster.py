"""Where the API server is, and what a person's calls mean when it does not answer as it should."""

from __future__ import annotations

import base64
import json

import people
import pytest
import yaml
from aiohttp import web
from fakes import ALL_RUNS, RUN, Plain, stored_run
from people import Someone

from trainingrun_operator.dashboard import cluster as module
from trainingrun_operator.dashboard.cluster import Cluster, NoClusterError, connection, default_namespace, own_token
from trainingrun_operator.edge.kube import KubeError


def kubeconfig(folder, **cluster):
    path = folder / "config"
    path.write_text(
        yaml.safe_dump({
            "current-context": "here",
            "contexts": [{"name": "there", "context": {"cluster": "other", "user": "x"}}, {"name": "here", "context": {"cluster": "this", "user": "admin"}}],
            "clusters": [{"name": "other", "cluster": {"server": "https://other"}}, {"name": "this", "cluster": {"server": "https://this:6443", **cluster}}],
            "users": [{"name": "admin", "user": {"token": "secret", "client-certificate-data": "x", "client-key-data": "x"}}],
        })
    )  # fmt: skip
    return {"KUBECONFIG": str(path)}


def test_a_kubeconfig_tells_the_server_and_its_ca_and_lends_nobodys_credentials(tmp_path):
    found = connection(kubeconfig(tmp_path, **{"certificate-authority-data": "Y2E="}))
    assert (found.server, found.ca_data) == ("https://this:6443", "Y2E=")
    assert (found.token, found.certificate_data, found.certificate_path, found.private_key_data) == (None,) * 4
    assert connection(kubeconfig(tmp_path, **{"certificate-authority": "ca.pem"})).ca_path == str(tmp_path / "ca.pem")


def test_in_a_pod_it_is_the_pods_own_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CA_FILE", tmp_path / "ca.crt")
    environ = {
        "KUBERNETES_SERVICE_HOST": "fd00::1",
        "KUBERNETES_SERVICE_PORT": "6443",
        "KUBECONFIG": str(tmp_path / "none"),
    }
    with pytest.raises(NoClusterError):
        connection(environ)
    (tmp_path / "ca.crt").write_text("ca")
    assert connection(environ).server == "https://[fd00::1]:6443"
    assert connection(environ).token is None


@pytest.mark.parametrize("text", ["", "[]", "current-context: x\ncontexts: []\n", "a: b: c"])
def test_without_a_cluster_it_says_what_to_set(tmp_path, text):
    (tmp_path / "config").write_text(text)
    with pytest.raises(
        NoClusterError, match=r"Neither in a pod nor with a kubeconfig that can be used .*: set KUBECONFIG"
    ):
        connection({"KUBECONFIG": str(tmp_path / "config")})


def test_the_dashboards_own_token_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOKEN_FILE", tmp_path / "token")
    assert own_token() == ""
    (tmp_path / "token").write_text("first\n")
    assert own_token() == "first"
    (tmp_path / "token").write_text("second\n")
    assert own_token() == "second"


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
    monkeypatch.setattr(module, "LINE_MAX", 1000)
    served.refuse(f"GET {ALL_RUNS}", web.Response(text="x" * 2000))
    with pytest.raises(KubeError, match="more than 1000 bytes"):
        await anext(person.watch_runs("", "7"))
