"""The rows `scale/N`: what is kept of them, and that a simulated run looks to the operator like one that trains."""

from __future__ import annotations

import json

import pytest
from bench.fleet import PAGE_LINES, Fleet, Trainer, answered
from bench.results import keep
from bench.scale import Scaled, ScaleRow

from trainingrun_operator.agent import relay
from trainingrun_operator.api.exchange import PAGE_HEADER, REPORT_BYTES_HEADER, AgentReport
from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.core.facts.pod import Pod, Training
from trainingrun_operator.core.facts.reading import Reading
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.metrics.page import parse


def test_a_row_of_scale_is_kept_with_every_figure(tmp_path):
    path = tmp_path / "results.json"
    found = Scaled(0.05, 120.5, 130.0, 0.0, 0.1, 0.02, 0.2, 11.0, 4.5, 3.9, 2.5, 1.9)
    keep(path, [ScaleRow("scale/200", found)])
    assert json.loads(path.read_text(encoding="utf-8"))["scale/200"] == {
        "cpu_share": 0.05,
        "rss_mib": 120.5,
        "peak_mib": 130.0,
        "late_p50_s": 0.0,
        "late_p99_s": 0.1,
        "stop_p50_s": 0.02,
        "stop_p99_s": 0.2,
        "api_per_s": 11.0,
        "start_s": 4.5,
        "start_cpu_s": 3.9,
        "again_s": 2.5,
        "again_cpu_s": 1.9,
    }


def test_a_simulated_run_trains_and_its_objects_are_as_long_as_real_ones():
    trainer = Trainer(7, "http://127.0.0.1:9", 8000, commits=True)
    run, job, pod, node = trainer.objects()
    sizes = {one["kind"]: len(json.dumps(one)) for one in (run, job, pod)}
    assert sizes["TrainingRun"] > 3_000, sizes
    assert min(sizes["Job"], sizes["Pod"]) > 10_000, sizes
    cache = Cache()
    assert cache.put_run(run)
    parsed = Run.of(cache.runs[trainer.uid])
    seen = Pod.of(pod, container=parsed.spec.template.first_container)
    assert (seen.training, seen.node) == (Training.RUNNING, node["metadata"]["name"])
    assert cache.put_child("Job", job, deleted=False) == parsed.uid


def test_the_pages_of_a_simulated_run_are_read_and_go_on():
    trainer = Trainer(7, "http://127.0.0.1:9", 8000, commits=True)
    first, second = (parse(trainer.page(), MetricNames()) for _ in range(2))
    assert isinstance(first, Reading)
    assert isinstance(second, Reading)
    assert first.step is not None
    assert second.step is not None
    assert second.step > first.step
    assert trainer.page().count(b"\n") > PAGE_LINES
    assert AgentReport.model_validate_json(trainer.report()).commit is not None


@pytest.mark.parametrize(
    ("head", "relayed", "both"),
    [
        pytest.param(f"{PAGE_HEADER}: 8000/metrics\r\n", "8000/metrics", True, id="asked for the page too"),
        pytest.param(f"{PAGE_HEADER}: 8001/metrics\r\n", "8000/metrics", False, id="asked for another page"),
        pytest.param("", "8000/metrics", False, id="asked for the report"),
        pytest.param(f"{PAGE_HEADER}: 8000/metrics\r\n", None, False, id="an agent of an older release"),
    ],
)
def test_a_simulated_agent_answers_with_the_page_as_a_real_one_does(head, relayed, both):
    trainer = Trainer(7, "http://127.0.0.1:9", 8000, commits=True)
    said = answered(trainer, f"GET /progress HTTP/1.1\r\n{head}\r\n".encode(), relay.page(relayed))
    http_head, _, body = said.partition(b"\r\n\r\n")
    headers = dict(line.split(": ") for line in http_head.decode().split("\r\n")[1:])
    assert int(headers["Content-Length"]) == len(body)
    length = int(headers.get(REPORT_BYTES_HEADER, len(body)))
    assert AgentReport.model_validate_json(body[:length]).commit is not None
    assert (length < len(body), len(trainer.polled)) == (both, both)
    if both:
        assert isinstance(parse(body[length:], MetricNames()), Reading)


def test_a_poll_is_late_by_what_it_comes_after_ten_seconds():
    fleet = Fleet(3, "http://127.0.0.1:9", 8000, commits=False)
    fleet.trainers[0].polled = [0.0, 10.0, 20.5]
    fleet.trainers[1].polled = [1.0]
    assert fleet.polls() == {"never": 1, "late": {"p50": 0.5, "p99": 0.5}, "polls": 2}
    fleet.clear()
    assert fleet.polls() == {"never": 1, "late": {}, "polls": 0}
