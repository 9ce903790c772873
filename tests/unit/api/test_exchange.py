"""What operator and agent say to each other survives the way through an annotation, an environment variable and HTTP."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from trainingrun_operator.api.exchange import (
    AgentConfig,
    AgentError,
    AgentReport,
    CheckpointSeen,
    CommitSeen,
    MarkerSeen,
    SaveRequest,
    StopRequest,
)
from trainingrun_operator.api.spoiled import Spoiled

REPORT = AgentReport(
    pod_uid="p-1",
    incarnation=2,
    newest=CheckpointSeen(dir="checkpoint-9", step=9, complete=True, age_seconds=1.5),
    unfinished=CheckpointSeen(dir="checkpoint-10", step=10, complete=False, age_seconds=0),
    files=7,
    unsaved_bytes=3,
    last_change_seconds=0.5,
    commit=CommitSeen(key="k", incarnation=2, generation=1, id="stop-u", attempt=3, final=True),
    markers=(MarkerSeen(name="done", age_seconds=9),),
    error=AgentError(code="AccessDenied", message="No.", since_seconds=4),
)
CONFIG = AgentConfig(
    namespace="ml", run="bert", run_uid="u", path="/checkpoints", destination="s3://b/p", exclude=("*.tmp",)
)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(StopRequest(id="s", grace_seconds=5), id="a stop"),
        pytest.param(SaveRequest(id="s", attempt=2, ended=True), id="a save"),
        pytest.param(CONFIG, id="a configuration"),
        pytest.param(REPORT, id="a report"),
        pytest.param(AgentReport(pod_uid="p-1"), id="a report of nothing"),
    ],
)
def test_what_is_said_is_understood(said):
    text = said.model_dump_json(by_alias=True)
    assert type(said).model_validate_json(text) == said
    assert all("_" not in key for key in json.loads(text))


def test_the_words_on_the_wire():
    said = '{"id":"s","attempt":1,"ended":false,"status":"failed","spoiled":null}'
    assert SaveRequest(id="s", ended=False, status="failed").model_dump_json(by_alias=True) == said
    spoiled = (
        '{"id":"s","attempt":1,"ended":false,"status":"failed","spoiled":{"step":300,"finiteStep":null,"writtenUs":7}}'
    )
    asked = SaveRequest(id="s", ended=False, status="failed", spoiled=Spoiled(step=300, written_us=7))
    assert asked.model_dump_json(by_alias=True) == spoiled
    assert StopRequest(id="s").model_dump_json(by_alias=True) == '{"id":"s","graceSeconds":120}'


def test_what_a_newer_agent_adds_is_ignored():
    assert AgentReport.model_validate_json('{"podUid": "p-1", "later": {"a": 1}}') == AgentReport(pod_uid="p-1")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{}", id="no pod"),
        pytest.param('{"podUid": "p", "files": "many"}', id="a number in words"),
        pytest.param('{"podUid": "p", "markers": {}}', id="markers that are none"),
        pytest.param("[]", id="no report at all"),
        pytest.param("<html>", id="another server"),
    ],
)
def test_what_is_no_report_is_refused(text):
    with pytest.raises(ValidationError):
        AgentReport.model_validate_json(text)


def test_a_save_request_says_whether_the_training_has_ended():
    with pytest.raises(ValidationError):
        SaveRequest.model_validate_json('{"id": "s"}')
