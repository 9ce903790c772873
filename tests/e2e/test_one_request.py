"""A poll of a run is one request to its pod, whose agent relays the metrics page that the run's Job was made with, and no other."""

from __future__ import annotations

import json
import re

import pytest
from e2e.own_operator import OwnOperator
from e2e.runs import WAIT_SECONDS
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "200", "--step-seconds", "0.1")
POLLS = 10
# digits.py, with a page on another port of its pod.
TWO_PORTS = """
import http.server, runpy, threading
class Other(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"other\\n")
threading.Thread(target=http.server.ThreadingHTTPServer(("", 9999), Other).serve_forever, daemon=True).start()
runpy.run_path("/usr/local/bin/digits.py", run_name="__main__")
"""
# Prints what each page has behind the report of the agent at an address; None: the report came alone.
ASK = """
import http.client, json, sys
said = {}
for page in sys.argv[2:]:
    there = http.client.HTTPConnection(sys.argv[1], 18790, timeout=120)
    there.request("GET", "/progress", headers={"Trainingrun-Page": page})
    answer = there.getresponse()
    body, length = answer.read(), answer.headers["Trainingrun-Report-Bytes"]
    json.loads(body if length is None else body[:int(length)])
    said[page] = None if length is None else body[int(length):].decode()
print(json.dumps(said))
"""


def calls(own, api):
    """The operator's requests so far to the agents, or to the trainings' metrics pages."""
    page = eventually(lambda: own.page("metrics"), "the operator shows its metrics")
    found = re.search(rf'^trainingrun_api_calls_total\{{api="{api}"\}} ([0-9.e+]+)$', page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_run_is_polled_by_one_request_until_its_page_is_changed(space):
    own = OwnOperator.open(space)
    run = space.run("page", *LONG, labels=own.labels)
    run.wait_training()
    run.wait_condition("MetricsAvailable")
    since = {api: calls(own, api) for api in ("agent", "metrics")}

    def polled_by_one():
        """Many polls in a row; a page that a busy machine serves late is read from the training, and the row begins again."""
        now = {api: calls(own, api) for api in since}
        if now["metrics"] != since["metrics"]:
            since.update(now)
        return now["agent"] - since["agent"] >= POLLS

    eventually(polled_by_one, f"{POLLS} polls take no request to the training", WAIT_SECONDS)

    # digits.py answers at any path; its pod keeps the page that it was made with.
    run.merge({"spec": {"metrics": {"path": "/moved"}}})
    moved = calls(own, "metrics")
    by_itself = "the new page is read from the training"
    eventually(lambda: calls(own, "metrics") - moved >= POLLS, by_itself, WAIT_SECONDS)
    run.wait_step(run.status["progress"]["step"] + 1)
    run.wait_condition("MetricsAvailable")
    assert own.state()["starts"] == 1, "The counts are of one process."


def test_an_agent_reads_no_other_page_for_a_tenant(space):
    run = space.run("page", *LONG, command=["python3", "-u", "-c", TWO_PORTS])
    pod = run.wait_training()
    run.wait_condition("MetricsAvailable")
    name, address = pod["metadata"]["name"], run.pods()[0]["status"]["podIP"]
    others = ["9999/", "9999/metrics", "8000/", "8000/metrics/", "18790/progress", "18790/measured", "8000/metrics?a=b"]

    def asked(*pages):
        said = space.shell(f"kubectl exec -i {name} -c train -- python3 - {address} {' '.join(f'{one!r}' for one in pages)} <<'ASK'{ASK}ASK")  # fmt: skip
        return json.loads(said)

    eventually(
        lambda: "training_loss" in (asked("8000/metrics")["8000/metrics"] or ""), "the run's own page is relayed"
    )
    assert asked(*others) == dict.fromkeys(others)
