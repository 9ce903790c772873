"""Objects of the API server without what is not read: the same otherwise, in little memory and short steps."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from cpu import longest_step
from fakes import stored_job, stored_pod, stored_run

from trainingrun_operator.api.template import TEMPLATE_MAX_BYTES, Template
from trainingrun_operator.edge.apiserver import slim


def sent(value):
    """JSON as the API server writes it."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def test_a_template_becomes_a_text_and_the_rest_stays():
    run = stored_run(status={"phase": "Running"}, labels={"a": "b"}, annotations={"x": '{"template":{"spec":[1]}}'})
    run["spec"]["template"]["spec"]["containers"][0] |= {"env": [{"name": "é", "value": '"}{\\'}]}
    found = slim.loads(sent(run))
    assert Template.of(found["spec"].pop("template")) == run["spec"].pop("template")
    assert found == run


@pytest.mark.parametrize("made", [stored_pod, stored_job])
def test_of_a_child_what_starts_its_containers_is_left_out(made):
    child = made(spec={"template": {"spec": {}}}) if made is stored_job else made()
    pod = child["spec"]["template"]["spec"] if made is stored_job else child["spec"]
    pod["containers"] = [{"name": "train", "args": ["x"], "command": ["y"], "env": [{"name": "z"}], "resources": {}}]
    found = slim.loads(sent(child))
    if made is stored_pod:
        assert found["spec"].pop("containers") == [
            {"name": "train", "args": None, "command": None, "env": None, "resources": {}}
        ]
        del child["spec"]["containers"]
    else:
        assert isinstance(found["spec"].pop("template"), str)
        del child["spec"]["template"]
    assert found == child


@pytest.mark.parametrize("field", ["labels", "finalizers", "ownerReferences", "managedFields"])
def test_a_long_field_of_metadata_is_left_out(field):
    long = {f"key-{number}": "x" * 20 for number in range(4000)} if field == "labels" else ["x" * 20] * 4000
    assert slim.loads(sent({"metadata": {field: long, "name": "n"}})) == {"metadata": {field: None, "name": "n"}}
    assert (
        slim.loads(sent({"metadata": {field: long[:3] if isinstance(long, list) else {}}}))["metadata"][field]
        is not None
    )


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1,", b'{"template":{', b'{"template":{"a":"', b'{"env":[}', b'{"a":1}}']
)
def test_what_is_no_json_is_refused_as_by_the_parser(text):
    with pytest.raises(ValueError, match="line 1"):
        slim.loads(text)


@pytest.mark.parametrize(
    "template",
    [
        pytest.param({"a": [1.5, None, True, "}]"]}, id="short"),
        pytest.param({"a": "é" * 100}, id="not ASCII"),
        pytest.param({"a": "x" * 20_000, "b": [{}]}, id="longer than what is parsed at once"),
        pytest.param({"a": ["\\", '\\"', '\\\\"']}, id="escapes"),
        pytest.param({}, id="empty"),
    ],
)
def test_the_text_of_a_template_is_what_its_author_wrote(template):
    found = slim.loads(sent({"spec": {"template": template, "stop": True}, "status": {"template": 1}}))
    assert found == {"spec": {"template": sent(template).decode(), "stop": True}, "status": {"template": 1}}


def bomb(unit, size=1_400_000):
    many = b",".join([unit] * (size // (len(unit) + 1)))
    return b'{"metadata":{"name":"n"},"spec":{"stop":true,"template":{"x":[' + many + b"]}}}"


UNITS = [b"{}", b"[]", b'{"a":1}', b"[[]]", b"1", b'""', b'{"a":{"b":{}}}', b'"' + b"x" * 9000 + b'"', b'"\\""']


@pytest.mark.parametrize("unit", UNITS)
def test_a_template_that_is_too_large_is_never_built(unit):
    text = bomb(unit)
    tracemalloc.start()
    try:
        found = slim.loads(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found["spec"]["stop"] is True
    assert (
        Template.of(found["spec"]["template"]).problem
        == f"has {len(text) - 58} bytes as JSON, more than {TEMPLATE_MAX_BYTES}"
    )
    assert peak < 4 * len(text)


def test_a_template_that_would_exhaust_the_stack_is_taken_as_text():
    deep = b'{"a":' * 9000 + b"1" + b"}" * 9000
    found = slim.loads(b'{"spec":{"template":' + deep + b',"stop":true}}')
    assert found["spec"]["stop"] is True
    assert "levels deep" in Template.of(found["spec"]["template"]).problem


@pytest.mark.parametrize("unit", UNITS)
def test_it_is_scanned_in_steps_between_which_other_threads_go_on(unit, monkeypatch):
    """The interpreter's lock is held for one step at most; its CPU time counts, because the machine may be busy."""
    texts, real = [], vars(slim)["brackets"]

    def noted(text):
        texts.append(text)
        return real(text)

    monkeypatch.setattr(slim, "brackets", noted)
    slim.loads(bomb(unit))
    assert len(texts) > 40
    assert max(map(len, texts)) <= slim.CHUNK_BYTES
    assert longest_step(lambda: map(real, texts)) < 0.05
