"""The metrics page that a real agent relays, by the configuration in its environment."""

from __future__ import annotations

import http.client

import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from trainingrun_operator.api.exchange import PAGE_HEADER, REPORT_BYTES_HEADER, AgentReport

pytestmark = pytest.mark.s3


@pytest.fixture
def training():
    """A training's metrics page; gives its port."""
    registry = CollectorRegistry()
    Gauge("training_loss", "Loss", registry=registry).set(0.25)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def asked(pod, page):
    """Whether the metrics page came behind the report."""
    there = http.client.HTTPConnection("127.0.0.1", pod.port, timeout=10)
    there.request("GET", "/progress", headers={PAGE_HEADER: page})
    answer = there.getresponse()
    body, length = answer.read(), int(answer.headers.get(REPORT_BYTES_HEADER, "0"))
    there.close()
    assert AgentReport.model_validate_json(body[: length or None]).pod_uid == pod.environment()["POD_UID"]
    return b"\ntraining_loss 0.25\n" in body


def test_an_agent_relays_the_page_of_its_configuration_and_no_other(make_pod, training):
    pod = make_pod(metrics_page=f"{training}/metrics").start()
    pod.reports(lambda _: True)
    assert asked(pod, f"{training}/metrics")
    assert not asked(pod, f"{training}/")


@pytest.mark.parametrize("configured", [{}, {"metrics_page": "no page"}], ids=["nothing", "what is no page"])
def test_an_agent_without_a_page_serves_its_report(make_pod, training, configured):
    pod = make_pod(**configured).start()
    pod.reports(lambda _: True)
    assert not asked(pod, f"{training}/metrics")
