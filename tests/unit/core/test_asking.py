"""A person's stop: in their own name, or in nobody's."""

from __future__ import annotations

import pytest

from trainingrun_operator.api.run import USER_MAX
from trainingrun_operator.api.status import StopMode
from trainingrun_operator.core import asking


@pytest.mark.parametrize(
    ("asked", "spec"),
    [
        pytest.param({}, {"stop": True}, id="just that"),
        pytest.param(
            {"by": "ada", "reason": "overfitting", "mode": StopMode.LAST_CHECKPOINT},
            {"stop": True, "stopMode": "LastCheckpoint", "stopReason": "overfitting", "stoppedBy": "ada"},
            id="everything",
        ),
        pytest.param({"by": "x" * USER_MAX}, {"stop": True, "stoppedBy": "x" * USER_MAX}, id="a name that just fits"),
        pytest.param({"by": "x" * (USER_MAX + 1)}, {"stop": True}, id="a name that does not fit"),
    ],
)
def test_a_stop_says_what_was_said_and_no_more(asked, spec):
    assert asking.stop(**asked) == {"spec": spec}


def test_a_patch_is_for_the_object_of_a_uid_and_nothing_else_of_it_changes():
    patch = {"metadata": {"annotations": {"a": "b"}}, "spec": {"stop": True}}
    assert asking.of_uid("u", patch) == {"metadata": {"annotations": {"a": "b"}, "uid": "u"}, "spec": {"stop": True}}
    assert asking.of_uid("u", {"spec": {}}) == {"metadata": {"uid": "u"}, "spec": {}}
    assert patch["metadata"] == {"annotations": {"a": "b"}}, "The caller's patch stays."
