"""The commands, with a kubectl that answers from a list."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from builders import EARLIER, RUN_UID, checkpoint_spec, make_node, make_status, make_stop
from documented import commands
from fakes import stored_run
from unit.cli.conftest import KIND

from trainingrun_operator.api.status import Condition, Effective, NodePhase, Phase, PodStatus, Progress
from trainingrun_operator.cli.complete import completions
from trainingrun_operator.cli.main import cli
from trainingrun_operator.cli.trouble import MEANINGS, Exit

LOOKED = Condition(type="Accepted", status="True", reason="Accepted", last_transition_time=EARLIER)
FINISHED = Condition(type="Finished", status="True", reason="UserStop", last_transition_time=EARLIER)
POD = PodStatus(name="bert-x7k2p", uid="u", phase="Running")
STOPPED = {"status": "user_stop", "actor": "ada", "message": "Stopped by hand: spec.stop is true."}


def stored(name="bert", *, spec=None, **status):
    said = {
        "phase": "Running",
        "conditions": (LOOKED,),
        "effective": Effective(auto_stop_loss=0.5),
        "pods": (POD,),
        **status,
    }
    return stored_run(name=name, spec=spec, status=make_status(**said).dump())


def stopping(phase, /, **fields):
    stop = {**STOPPED, **fields.pop("stop", {})}
    return stored(
        **{"phase": "Held" if phase is Phase.HELD else "Stopping", "termination": make_stop(phase, **stop), **fields}
    )


def over(**fields):
    return stopping(Phase.DONE, **{"phase": "Stopped", "conditions": (LOOKED, FINISHED), "pods": (), **fields})


def curve(*losses, uid=RUN_UID, **values):
    points = [{"at": EARLIER, "step": 10 * place, "loss": loss} for place, loss in enumerate(losses, 1)]
    meta = {"name": "bert-curve", "namespace": "ml", "labels": {"trainingrun.dev/run-uid": uid}}
    return {"metadata": meta, "data": {"curve.json": json.dumps({"points": points, "values": kept_values(values)})}}


def kept_values(values):
    return [
        {
            "name": name,
            "points": [{"at": EARLIER, "step": 10 * place, "value": one} for place, one in enumerate(all_, 1)],
        }
        for name, all_ in values.items()
    ]


# -- where and as whom -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--context", "prod", "-n", "team", "list"), id="before the command"),
        pytest.param(("list", "--context=prod", "--namespace=team"), id="behind the command"),
        pytest.param(("--context", "prod", "list", "-n", "team"), id="on both sides"),
        pytest.param(("-n", "other", "list", "--context", "prod", "-n", "team"), id="the later one counts"),
    ],
)
def test_kubectls_own_options_are_understood_wherever_they_are_written(kubectl, plugin, arguments):
    kubectl.has(stored())
    assert plugin(*arguments).code == 0
    assert {"--context=prod", "--namespace=team"} <= set(kubectl.asked[0])
    assert "--namespace=other" not in kubectl.asked[0]


def test_who_acts_as_somebody_else_asks_as_them(kubectl, plugin):
    kubectl.has(stored())
    plugin("stop", "bert", "--as", "eve", "--as-group", "a", "--as-group", "b")
    for call in kubectl.asked:
        assert [word for word in call if word.startswith("--as")] == ["--as=eve", "--as-group=a", "--as-group=b"]


def test_without_kubectl_it_says_so(monkeypatch, plugin):
    monkeypatch.setenv("PATH", "/nowhere")
    said = plugin("list")
    assert (said.code, said.out) == (Exit.NO_CLUSTER, "")
    assert said.err.startswith("error: kubectl is not on PATH")


# -- looking ---------------------------------------------------------------------------------------------------


def test_a_list_without_a_terminal_is_plain_and_whole(kubectl, plugin):
    long = "a-very-long-name-that-would-not-fit-into-a-terminal-of-80"
    kubectl.has(stored(), stored(long, progress=Progress(loss="0.62", step=1200)))
    said = plugin("list")
    head, first, second = said.out.splitlines()
    assert head.split() == ["NAME", "PHASE", "LOSS", "TARGET", "STEP", "AGE"]
    assert first.split()[:3] == ["bert", "Running", "0.5"]
    assert second.split()[:5] == [long, "Running", "0.62", "0.5", "1200"]
    assert "\x1b" not in said.out


def test_a_list_of_all_namespaces_names_them(kubectl, plugin):
    kubectl.has(stored())
    assert plugin("list", "--all-namespaces", "--selector", "team=a").out.splitlines()[1].split()[:2] == ["ml", "bert"]
    assert {"--all-namespaces", "--selector=team=a"} <= set(kubectl.asked[-1])


def test_a_wide_list_shows_the_checkpoint(kubectl, plugin):
    kubectl.has(stored(checkpoint={"uri": "s3://bucket/x", "commit": "k"}))
    assert plugin("list", "--output", "wide").out.splitlines()[1].endswith("s3://bucket/x")


def test_an_empty_list_says_where_it_is_empty(kubectl, plugin):
    kubectl.has()
    said = plugin("list")
    assert (said.code, said.out, said.err) == (0, "", "There is no TrainingRun in namespace ml.\n")


def test_a_run_that_is_not_there_is_answered_with_those_that_are(kubectl, plugin):
    kubectl.has(stored("bert"), stored("vit"))
    said = plugin("explain", "brt")
    assert said.code == Exit.NO_SUCH_RUN
    assert said.err == "error: There is no TrainingRun 'brt' in namespace ml. There are: bert, vit.\n"


def test_a_run_that_is_in_another_namespace_is_found_there(kubectl, plugin):
    kubectl.says("get", KIND, "--", err='Error from server (NotFound): "x" not found', code=1)
    kubectl.says("get", KIND, "--all-namespaces", out="team/bert\nother/vit\n")
    kubectl.says("get", KIND, out="")
    said = plugin("explain", "bert", "--namespace", "ml")
    assert said.err == "error: There is no TrainingRun 'bert' in namespace ml. Found team/bert: set --namespace.\n"


def test_explain_answers_in_its_first_line(kubectl, plugin):
    kubectl.has(over())
    assert plugin("explain", "bert").out.startswith("bert ended as user_stop")


def test_policy_says_where_a_value_comes_from(kubectl, plugin):
    kubectl.has(stored(spec={"stallPolls": 9}))
    lines = plugin("policy", "bert").out.splitlines()
    assert [line.split()[-1] for line in lines if "9 polls" in line] == ["spec.stallPolls"]


def test_plot_draws_the_curve_that_the_operator_kept(kubectl, plugin):
    kubectl.has(stored())
    kubectl.says("get", "configmap", "--", "bert-curve", out=curve(2.0, 1.0, 0.7, 0.8))
    lines = plugin("plot", "bert", "--height", "6").out.splitlines()
    assert lines[0] == "bert: loss 0.8 at step 40, lowest 0.7 at step 30, threshold 0.5"
    assert any(line.strip().startswith("0.5┤╌") for line in lines)
    assert len(lines) == 1 + 6 + 2
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    "found",
    [curve(2.0, uid="an-earlier-run"), {**curve(), "data": {"curve.json": "{"}}, None],
    ids=["another run's", "broken", "none"],
)
def test_plot_without_a_curve_says_why(kubectl, plugin, found):
    kubectl.has(stored(progress=Progress(loss="0.6", step=10)))
    if found is None:
        kubectl.says("get", "configmap", err='Error from server (NotFound): configmaps "bert-curve" not found', code=1)
    else:
        kubectl.says("get", "configmap", out=found)
    said = plugin("plot", "bert")
    assert (said.code, said.out) == (Exit.NO_SUCH_RUN, "")
    assert "bert has no loss curve" in said.err


RULE = {"name": "good", "metric": "accuracy", "goal": "Maximize", "threshold": {"value": 0.9}}


@pytest.mark.parametrize(
    ("value", "rules", "caption"),
    [
        pytest.param(
            "eval_loss", [], "eval_loss 1.5 at step 20, lowest 1.5 at step 20, highest 2 at step 10", id="a value"
        ),
        pytest.param(
            "accuracy",
            [RULE],
            "accuracy 0.6 at step 30, lowest 0.5 at step 10, highest 0.7 at step 20, threshold 0.9 (good)",
            id="with a threshold",
        ),
        pytest.param(
            "accuracy",
            [{**RULE, "action": "Shadow"}],
            "accuracy 0.6 at step 30, lowest 0.5 at step 10, highest 0.7 at step 20, threshold 0.9 (good, shadow mode)",
            id="with one that only reports",
        ),
        pytest.param("loss", [RULE], "loss 1 at step 20, the lowest so far, threshold 0.5", id="the loss"),
        pytest.param(
            "train_loss",
            [],
            "loss 1 at step 20, the lowest so far, threshold 0.5",
            id="the loss by another of its names",
        ),
    ],
)
def test_plot_draws_any_value_that_was_kept(kubectl, plugin, value, rules, caption):
    kubectl.has(stored(spec={"stopRules": rules}))
    kubectl.says("get", "configmap", out=curve(2.0, 1.0, eval_loss=[2.0, 1.5], accuracy=[0.5, 0.7, 0.6]))
    said = plugin("plot", "bert", "--value", value)
    assert (said.code, said.out.splitlines()[0]) == (0, f"bert: {caption}")
    if rules and value == "accuracy":
        assert any(line.strip().startswith("0.9┤╌") for line in said.out.splitlines())


@pytest.mark.parametrize("value", ["accuracy", "Eval_loss", ""])
def test_plot_of_a_value_that_was_not_kept_names_those_that_were(kubectl, plugin, value):
    kubectl.has(stored())
    kubectl.says("get", "configmap", out=curve(2.0, eval_loss=[2.0]))
    said = plugin("plot", "bert", "--value", value)
    assert (said.code, said.out) == (Exit.NO_SUCH_RUN, "")
    assert f"no curve of {value!r}, but of: loss, eval_loss." in said.err


def test_plot_of_the_loss_where_only_other_values_were_kept_names_them(kubectl, plugin):
    kubectl.has(stored())
    kubectl.says("get", "configmap", out=curve(eval_loss=[2.0]))
    said = plugin("plot", "bert")
    assert said.code == Exit.NO_SUCH_RUN
    assert "no curve of 'loss', but of: eval_loss." in said.err


def test_a_logarithmic_plot_of_a_value_that_is_never_above_0_says_so(kubectl, plugin):
    kubectl.has(stored())
    kubectl.says("get", "configmap", out=curve(2.0, **{"rewards/mean": [-1.0, -2.0]}))
    said = plugin("plot", "bert", "--value", "rewards/mean", "--log")
    assert said.code == Exit.FAILED
    assert "no rewards/mean above 0" in said.err


def test_logs_are_those_of_the_container_that_trains(kubectl, plugin):
    kubectl.has(stored(spec={"metrics": {"container": "train"}}))
    kubectl.says("logs", out="step 1\n")
    said = plugin("logs", "bert", "--follow", "--tail", "5", "--since", "5m", "--timestamps")
    assert (said.code, said.out) == (0, "step 1\n")
    assert kubectl.asked[-1] == [
        "logs",
        "bert-x7k2p",
        "--container=train",
        "--follow",
        "--tail=5",
        "--since=5m",
        "--timestamps",
    ]


def test_logs_of_a_pod_that_is_gone_say_why_it_ended(kubectl, plugin):
    kubectl.has(over())
    said = plugin("logs", "bert")
    assert said.code == Exit.NO_SUCH_RUN
    assert "its log are deleted: Stopped by hand" in said.err


def test_logs_are_followed_from_when_the_training_starts(kubectl, plugin):
    waiting, started = stored(phase="Pending", pods=()), stored()
    calls = kubectl.folder / "asked"
    kubectl.says(
        "get",
        KIND,
        "--watch",
        out="".join(json.dumps({"type": "MODIFIED", "object": one}) + "\n" for one in (waiting, started)),
    )
    kubectl.has(waiting)
    kubectl.says("logs", out="step 1\n")
    said = plugin("logs", "bert")
    assert said.code == Exit.NO_SUCH_RUN
    assert "its training has not started" in said.err
    calls.unlink()
    plugin("logs", "bert", "-f")
    assert [call[0] for call in kubectl.asked] == ["get", "get", "get"], (
        "It waited for the watch, and then read the run again."
    )


def test_kubectls_failure_to_print_a_log_is_the_plugins(kubectl, plugin):
    kubectl.has(stored())
    kubectl.says("logs", err="error: container train is waiting to start\n", code=1)
    said = plugin("logs", "bert")
    assert (said.code, said.err) == (Exit.FAILED, "error: container train is waiting to start\n")


def test_watch_without_a_terminal_prints_a_line_per_change_and_ends_with_the_run(kubectl, plugin):
    events = [stored(progress=Progress(loss="0.62", step=step)) for step in (10, 10, 20)] + [
        stopping(Phase.SAVING),
        over(),
    ]
    kubectl.says(
        "get",
        KIND,
        "--watch",
        out="".join(json.dumps({"type": "MODIFIED", "object": one}) + "\n" for one in events),
    )
    kubectl.has(events[0])
    said = plugin("watch", "bert")
    assert said.code == 0
    assert [re.sub(r"^\S+Z  ", "", line) for line in said.out.splitlines()] == [
        "ml/bert  Running  step 10  loss 0.62 (target 0.5)",
        "ml/bert  Running  step 20  loss 0.62 (target 0.5)",
        "ml/bert  Stopping  user_stop: Saving",
        "ml/bert  Stopped  user_stop",
    ]


# -- changing --------------------------------------------------------------------------------------------------


def test_stop_writes_the_persons_own_name_the_reason_and_the_mode(kubectl, plugin):
    kubectl.has(stored())
    kubectl.says("patch")
    said = plugin("stop", "bert", "--reason", "overfitting", "--mode", "LastCheckpoint")
    assert said.code == 0
    assert kubectl.patches() == [
        {"spec": {"stop": True, "stoppedBy": "ada", "stopReason": "overfitting", "stopMode": "LastCheckpoint"}}
    ]
    assert said.out.startswith("bert will stop")


def test_stop_goes_without_a_name_that_the_cluster_does_not_say(kubectl, plugin):
    kubectl.says("auth", "whoami", err="error: unknown command\n", code=1)
    kubectl.has(stored())
    kubectl.says("patch")
    plugin("stop", "bert")
    assert kubectl.patches() == [{"spec": {"stop": True}}]


def test_stop_goes_without_a_name_that_is_longer_than_its_field(kubectl, plugin):
    kubectl.says("auth", "whoami", out={"status": {"userInfo": {"username": "x" * 513}}})
    kubectl.has(stored())
    kubectl.says("patch")
    plugin("stop", "bert")
    assert kubectl.patches() == [{"spec": {"stop": True}}]


def test_several_runs_are_stopped_only_if_all_of_them_are_there(kubectl, plugin):
    kubectl.has(stored("bert"), stored("vit"))
    kubectl.says("patch")
    assert plugin("stop", "bert", "nosuch").code == Exit.NO_SUCH_RUN
    assert kubectl.patches() == []
    assert plugin("stop", "bert", "vit").code == 0
    assert len(kubectl.patches()) == 2


@pytest.mark.parametrize(
    ("run", "arguments", "patches", "words"),
    [
        pytest.param(
            stopping(Phase.DRAINING), (), [], "bert is already stopping (user_stop: Stopped by hand", id="stopping"
        ),
        pytest.param(
            stopping(Phase.DRAINING),
            ("--mode", "LastCheckpoint"),
            [{"spec": {"stopMode": "LastCheckpoint"}}],
            "It now waits for LastCheckpoint.",
            id="another mode",
        ),
        pytest.param(stopping(Phase.DRAINING), ("--reason", "late"), [], "--reason is ignored", id="a reason too late"),
        pytest.param(stored(spec={"stop": True}), (), [], "bert is already stopping.", id="asked for already"),
        pytest.param(over(), ("--mode", "LastCheckpoint"), [], "bert has already ended (user_stop)", id="ended"),
        pytest.param(
            stopping(Phase.DONE, stop={"status": "suspended"}, phase="Suspended", spec={"suspend": True}),
            (),
            [{"spec": {"stop": True, "stoppedBy": "ada"}}],
            "is suspended; it ends with the checkpoint of its suspension",
            id="suspended",
        ),
    ],
)
def test_stop_of_a_run_that_does_not_just_train(kubectl, plugin, run, arguments, patches, words):
    kubectl.has(run)
    kubectl.says("patch")
    said = plugin("stop", "bert", *arguments)
    assert said.code == 0
    assert kubectl.patches() == patches
    assert words in said.out


def test_what_a_login_asks_for_is_shown_while_kubectl_waits(kubectl, plugin, monkeypatch):
    monkeypatch.setattr("trainingrun_operator.cli.kubectl.PATIENCE_SECONDS", 0.1)
    script = kubectl.folder / "bin" / "kubectl"
    script.write_text(
        "#!/bin/sh\necho 'open https://login.test and enter ABC' >&2\nsleep 0.5\necho '{\"items\": []}'\n"
    )
    said = plugin("list", "--all-namespaces")
    assert said.code == 0
    assert said.err.splitlines() == [
        "open https://login.test and enter ABC",
        "There is no TrainingRun in any namespace.",
    ]


def test_a_refused_stop_is_a_sentence(kubectl, plugin):
    kubectl.has(stored())
    kubectl.says(
        "patch",
        err='Error from server (Forbidden): x is forbidden: User "eve" cannot patch resource "trainingruns" in API group "trainingrun.dev" in the namespace "ml"',
        code=1,
    )
    said = plugin("stop", "bert")
    assert (said.code, said.out) == (Exit.FORBIDDEN, "")
    assert said.err.startswith("error: You (eve) may not patch trainingruns in namespace ml")


def test_waiting_tells_each_phase_once_and_the_end(kubectl, plugin):
    events = [
        stored(spec={"stop": True}),
        stopping(Phase.DRAINING),
        stopping(Phase.DRAINING),
        stopping(Phase.HELD, stop={"hold_reason": "The bucket is away."}),
        over(termination_message="Stopped by hand. Checkpoint verified."),
    ]
    kubectl.says(
        "get",
        KIND,
        "--watch",
        out="".join(json.dumps({"type": "MODIFIED", "object": one}) + "\n" for one in events),
    )
    kubectl.has(stored())
    kubectl.says("patch")
    said = plugin("stop", "bert", "--wait")
    assert said.code == 0
    assert said.out.splitlines()[1:] == [
        "bert  Draining: the training saves and exits",
        "bert  Held: nothing is deleted, the checkpoint is not proven yet",
        "bert  Held: The bucket is away.",
        "Stopped by hand. Checkpoint verified.",
    ]


def test_waiting_for_a_run_that_loses_something_fails(kubectl, plugin):
    lost = Condition(
        type="CheckpointSaved", status="False", reason="DataLoss", message="The pod went.", last_transition_time=EARLIER
    )
    kubectl.has(over(conditions=(LOOKED, FINISHED, lost)))
    said = plugin("stop", "bert", "--wait")
    assert said.code == Exit.NOT_PROVEN
    assert said.err == "error: bert ended without a proven checkpoint: The pod went.\n"


def test_waiting_ends_with_the_time_that_was_given(kubectl, plugin, monkeypatch):
    monkeypatch.setattr("trainingrun_operator.cli.kubectl.AGAIN_SECONDS", 0)
    script = kubectl.folder / "bin" / "kubectl"
    script.write_text(f'#!/bin/bash\n[[ " $* " == *" --watch "* ]] && exec sleep 60\nexec {script}.answers "$@"\n')
    (kubectl.folder / "bin" / "kubectl.answers").write_text(
        f"#!{sys.executable} -IS\n" + SCRIPT_OF_ANSWERS.format(folder=str(kubectl.folder))
    )
    (kubectl.folder / "bin" / "kubectl.answers").chmod(0o755)
    kubectl.has(stored())
    kubectl.says("patch")
    said = plugin("stop", "bert", "--wait", "--timeout", "1s")
    assert said.code == Exit.TIMEOUT
    assert "bert is not done after 1 s and continues" in said.err


SCRIPT_OF_ANSWERS = """import json, sys
for words, answer in json.load(open({folder!r} + "/answers")):
    if all(word in sys.argv for word in words):
        sys.stdout.write(answer["out"])
        sys.exit(answer["code"])
"""


@pytest.mark.parametrize("text", ["soon", "", "5x"])
def test_a_timeout_that_is_none_is_refused(plugin, text):
    assert plugin("stop", "bert", "--wait", "--timeout", text).code == Exit.USAGE


@pytest.mark.parametrize(
    ("command", "run", "patches", "words"),
    [
        pytest.param(
            "suspend", stored(), [{"spec": {"suspend": True}}], "will be suspended", id="suspend a training run"
        ),
        pytest.param(
            "suspend", stored(spec={"suspend": True}), [], "is already being suspended", id="suspend what is on its way"
        ),
        pytest.param(
            "suspend",
            stored(spec={"suspend": True}, phase="Suspended"),
            [],
            "is already suspended",
            id="suspend what rests",
        ),
        pytest.param("resume", stored(), [], "is not suspended", id="resume what trains"),
        pytest.param(
            "resume",
            stopping(Phase.DONE, stop={"status": "suspended"}, phase="Suspended", spec={"suspend": True}),
            [{"spec": {"suspend": False}}],
            "will resume.",
            id="resume what rests",
        ),
        pytest.param(
            "resume",
            stopping(Phase.SAVING, stop={"status": "suspended"}, spec={"suspend": True}),
            [{"spec": {"suspend": False}}],
            "after its suspension is complete",
            id="resume what is on its way",
        ),
    ],
)
def test_suspend_and_resume_write_what_is_not_so_already(kubectl, plugin, command, run, patches, words):
    kubectl.has(run)
    kubectl.says("patch")
    said = plugin(command, "bert")
    assert (said.code, said.err) == (0, "")
    assert kubectl.patches() == patches
    assert words in said.out


@pytest.mark.parametrize("command", ["suspend", "resume"])
@pytest.mark.parametrize(
    ("run", "words"), [(over(), "has ended"), (stopping(Phase.SAVING), "is stopping")], ids=["ended", "stopping"]
)
def test_a_run_that_ends_is_neither_suspended_nor_resumed(kubectl, plugin, command, run, words):
    kubectl.has(run)
    said = plugin(command, "bert")
    assert said.code == Exit.FAILED
    assert words in said.err
    assert kubectl.patches() == []


def test_proceed_asks_first_and_then_patches(kubectl, plugin):
    kubectl.has(stopping(Phase.HELD, stop={"hold_reason": "The bucket is away."}))
    kubectl.says("patch")
    refused = plugin("proceed", "bert")
    assert refused.code == Exit.USAGE
    assert "Use --yes" in refused.err
    assert kubectl.patches() == []
    assert plugin("proceed", "bert", "--yes").code == 0
    assert kubectl.patches() == [{"spec": {"checkpoint": {"onFailure": "Proceed"}}}]


@pytest.mark.parametrize(
    ("run", "code", "words"),
    [
        pytest.param(stored(), Exit.FAILED, "is not held (phase: Running)", id="it trains"),
        pytest.param(over(), Exit.DONE, "has already ended", id="it has ended"),
        pytest.param(
            stopping(Phase.HELD, spec={"checkpoint": checkpoint_spec(onFailure="Proceed")}),
            Exit.DONE,
            "already has spec.checkpoint.onFailure: Proceed",
            id="it was said",
        ),
    ],
)
def test_proceed_changes_nothing_that_is_not_held(kubectl, plugin, run, code, words):
    kubectl.has(run)
    said = plugin("proceed", "bert", "--yes")
    assert said.code == code
    assert words in said.out + said.err
    assert kubectl.patches() == []


def test_abandon_names_the_nodes_and_annotates(kubectl, plugin):
    kubectl.has(
        stopping(Phase.RELEASING, nodes=(make_node(NodePhase.WAIT_IDLE, message="Occupied by team/notebook."),))
    )
    kubectl.says("patch")
    said = plugin("abandon", "bert", "--yes")
    assert "gpu-1 (WaitIdle): Occupied by team/notebook." in said.out
    assert kubectl.patches() == [{"metadata": {"annotations": {"trainingrun.dev/abandon-release": "true"}}}]


def test_abandon_needs_a_node_that_is_waited_for(kubectl, plugin):
    kubectl.has(over())
    assert plugin("abandon", "bert", "--yes").code == Exit.FAILED
    assert kubectl.patches() == []


# -- the command line itself -----------------------------------------------------------------------------------


def test_help_lists_every_command_and_every_exit_code(plugin):
    said = plugin("--help")
    assert said.code == 0
    for name in cli.commands:
        assert f"  {name} " in said.out
    for code, meaning in MEANINGS.items():
        assert re.search(rf"^ +{code.value} +{re.escape(meaning)}$", said.out, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nosuch",),
        ("explain",),
        ("explain", "a", "b"),
        ("stop", "x", "--mode", "Soon"),
        ("checkpoints", "verify", "x", "i1-g1", "--all"),
    ],
)
def test_wrong_usage_is_told_apart(plugin, arguments):
    said = plugin(*arguments)
    assert said.code == Exit.USAGE
    assert "Usage: kubectl trainingrun" in said.err


def test_every_exit_code_is_explained():
    assert set(MEANINGS) == set(Exit)


def test_the_docs_have_the_same_exit_codes():
    page = (Path(__file__).parents[3] / "docs" / "kubectl.md").read_text(encoding="utf-8")
    assert [
        f"| {code.value} | {meaning} |"
        for code, meaning in MEANINGS.items()
        if f"| {code.value} | {meaning} |" not in page
    ] == []


def test_every_command_that_the_docs_show_is_run_on_the_cluster():
    shown = {tuple(call[2:4]) for one in commands() for call in one.calls if call[:2] == ["kubectl", "trainingrun"]}
    named = {words[0] if words[0] != "checkpoints" else " ".join(words) for words in shown if words}
    assert {"list", "explain", "stop", "plot", "checkpoints verify"} <= named
    tests = (Path(__file__).parents[2] / "e2e" / "test_plugin.py").read_text(encoding="utf-8")
    run = set(re.findall(r'space, f?"((?:checkpoints )?[a-z]+)', tests))
    alone = {
        "inspect",
        "simulate",
    }  # need no cluster: test_inspect.py and test_simulate.py run them as the page shows them
    assert named - run == alone


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["st"], ["stop\tStop a run: prove its checkpoint, release its node.", ":4"], id="a command"),
        pytest.param(["explain", ""], ["bert", "vit", ":4"], id="all runs"),
        pytest.param(["-n", "team", "stop", "vit", "b"], ["bert", ":4"], id="a run, behind options and others"),
        pytest.param(["checkpoints", "verify", "v"], ["vit", ":4"], id="a run of a command in a group"),
        pytest.param(["stop", "bert", "--mode", "N"], ["NextCheckpoint", ":4"], id="a choice"),
        pytest.param(["--kubeconfig", ""], [":0"], id="files, by the shell"),
        pytest.param(["checkpoints", "download", "bert", "--to", "x"], [":0"], id="folders, by the shell"),
    ],
)
def test_what_may_follow(kubectl, words, expected):
    kubectl.has(stored("bert"), stored("vit"))
    found = completions(words)
    assert [line for line in found if "\t" not in line or line in expected] == expected
    if "team" in words:
        assert "--namespace=team" in kubectl.asked[-1]


def test_completion_without_a_cluster_is_silent(kubectl):
    kubectl.says("get", err="The connection to the server localhost:8080 was refused", code=1)
    assert completions(["explain", ""]) == [":4"]


def test_a_reader_that_has_seen_enough_is_no_error(kubectl):
    kubectl.has(*(stored(f"run-{number}") for number in range(200)))
    script = Path(sys.executable).with_name("kubectl-trainingrun")
    assert shutil.which(str(script))
    whole = subprocess.run(
        ["bash", "-c", f"{script} list | head -n 1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert whole.stdout.splitlines()[-1] == "0"
    assert whole.stderr == ""


def test_ages_are_told_by_now(kubectl, plugin):
    begun = (datetime.now(UTC) - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    run = stored()
    run["metadata"]["creationTimestamp"] = begun
    kubectl.has(run)
    assert re.search(r" 5m\d*s?$", plugin("list").out.splitlines()[1].rstrip())
