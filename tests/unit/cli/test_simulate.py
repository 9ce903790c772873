"""`kubectl trainingrun simulate`: recorded trainings, read by the operator's own memory and rules."""

from __future__ import annotations

import json
from math import exp, isnan, nan

import pytest
import yaml
from event_files import TENSORBOARD

from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.cli.main import run
from trainingrun_operator.cli.recorded import UnreadableError, rows_of
from trainingrun_operator.cli.trouble import Exit

FALLING = [{"step": 10 * n, "loss": 3 * exp(-n / 10), "eval_loss": 0.5 + 3 * exp(-n / 3)} for n in range(40)]


def lines(records):
    return "".join(json.dumps(one) + "\n" for one in records)


@pytest.fixture
def simulated(tmp_path, capsys):
    """Runs the command on these records and rules; returns the exit code, what it prints and its errors."""

    def simulate(records, rules=None, *options, name="run.jsonl"):
        file = tmp_path / name
        file.write_text(records if isinstance(records, str) else lines(records), encoding="utf-8")
        arguments = ["simulate", str(file), *options]
        if rules is not None:
            written = tmp_path / "rules.yaml"
            written.write_text(rules if isinstance(rules, str) else yaml.safe_dump(rules), encoding="utf-8")
            arguments += ["--rules", str(written)]
        code = run(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return simulate


@pytest.fixture
def document(simulated):
    """The same with --output json: the document."""

    def simulate(records, rules=None, **more):
        code, out, err = simulated(records, rules, "--output", "json", **more)
        assert (code, err) == (Exit.DONE, "")
        return json.loads(out)

    return simulate


def test_the_document_has_the_decision_and_each_rule(document):
    rules = {
        "autoStopLoss": 0.3,
        "stopRules": [
            {"name": "flat", "metric": "eval_loss", "plateau": {"patience": 3, "minDelta": 0.1}, "action": "Shadow"},
            {"metric": "accuracy", "goal": "Maximize", "threshold": {"value": 0.9}},
        ],
    }
    found = document(FALLING, rules)
    decision = found["decision"]
    assert found["observations"] == 40
    assert (decision["terminationStatus"], decision["step"]) == ("auto_low_loss", 250)
    assert decision["value"] == FALLING[25]["loss"]
    assert decision["message"] == "Loss 0.2463 < 0.3 at step 250."
    assert found["rules"] == [
        {"name": "autoStopLoss", "action": "Stop", "step": 250, "value": FALLING[25]["loss"]},
        {"name": "flat", "action": "Shadow", "step": 120, "value": FALLING[12]["eval_loss"]},
        {"name": "threshold", "action": "Stop", "step": None, "value": None},
    ]


def test_nothing_that_fires_is_no_error(document):
    found = document(FALLING, {"autoStopLoss": -1})
    assert found == {"observations": 40, "decision": None, "rules": []}


def test_without_rules_the_defaults_of_an_installation_are_shown(document):
    found = document(FALLING)
    assert found["decision"] is None
    assert [(one["name"], one["action"], one["step"]) for one in found["rules"]] == [("autoStopLoss", "Shadow", 190)]


def test_the_rules_may_be_a_whole_training_run(document):
    whole = {
        "apiVersion": "trainingrun.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "bert"},
        "spec": {
            "autoStopLoss": 1.0,
            "checkpoint": {"destination": "s3://my-bucket/runs"},
            "template": {"spec": {"containers": [{"name": "train", "image": "acme/bert"}]}},
        },
    }
    assert document(FALLING, whole)["decision"]["step"] == 120


def test_a_value_that_is_not_finite_is_valid_json(document):
    records = [{"step": n, "loss": 2.0 - n / 10 if n < 5 else nan} for n in range(9)]
    found = document(records, {"autoStopLoss": -1, "stopRules": [{"nonFinite": {}}]})
    assert (found["decision"]["terminationStatus"], found["decision"]["step"], found["decision"]["value"]) == (
        "auto_non_finite", 6, "NaN",
    )  # fmt: skip


def stalled(**more):
    """Two epochs of 100 steps, a poll every ten seconds, and then the step stands still."""
    trains = [
        {"time": 1e9 + 10 * n, "step": 10 * n, "epoch": n / 10, "totalEpochs": 2, "loss": 2 - n / 40} for n in range(21)
    ]
    return [*trains, *({**trains[-1], **more, "time": 1e9 + 210 + 10 * n} for n in range(60))]


@pytest.mark.parametrize(
    ("records", "status"),
    [
        pytest.param(stalled(), "auto_complete", id="the step stands still at the end"),
        pytest.param(stalled(checkpointStep=200), "auto_complete", id="with the checkpoint of the last step"),
        pytest.param(stalled(checkpointStep=100), None, id="with an older checkpoint"),
        pytest.param(stalled()[:50], None, id="not long enough for the last writes"),
        pytest.param([*stalled()[:30], {"step": 200, "loss": 1.5}, *stalled()[30:]], "auto_complete", id="one row without a time"),
        pytest.param([{**one, "totalEpochs": 3} for one in stalled()], None, id="not in the last epoch"),
        pytest.param([{k: v for k, v in one.items() if k != "time"} for one in stalled()], None, id="rows without times"),
    ],
)  # fmt: skip
def test_a_completion_by_a_stall_is_simulated_if_the_rows_have_times(document, records, status):
    decision = document(records, {"autoStopLoss": -1})["decision"]
    assert (decision and decision["terminationStatus"]) == status
    assert decision is None or decision["step"] == 200


WITHOUT_TOTAL = [{key: value for key, value in one.items() if key != "totalEpochs"} for one in stalled()]


@pytest.mark.parametrize(
    ("completion", "rule"),
    [
        pytest.param({"totalEpochs": 2}, "finalEpochStall", id="the number of epochs is named"),
        pytest.param({"finalStep": 200}, "finalStep", id="the final step is named"),
        pytest.param({"finalStep": 200, "totalEpochs": 2}, "finalStep", id="both are"),
        pytest.param({"finalStep": 300, "totalEpochs": 2}, None, id="the final step is not reached"),
        pytest.param({"totalEpochs": 3}, None, id="the last epoch is not reached"),
        pytest.param({}, None, id="nothing is named"),
    ],
)
def test_what_the_spec_names_is_simulated_by_the_same_fold(document, completion, rule):
    found = document(WITHOUT_TOTAL, {"autoStopLoss": -1, "completion": completion})
    assert (found["decision"] and found["decision"]["terminationStatus"]) == (rule and "auto_complete")
    assert ([one["name"] for one in found["rules"]][:1] or [None]) == [rule]


def test_the_limit_of_the_time_is_simulated_if_the_rows_have_times(document):
    found = document(stalled(), {"autoStopLoss": -1, "maxDurationSeconds": 100, "shutdown": {"graceSeconds": 0}})
    assert (found["decision"]["terminationStatus"], found["decision"]["step"], found["decision"]["value"]) == (
        "max_duration", 100, 100.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("records", "ends"),
    [
        pytest.param([{**one, "checkpointStep": 0} for one in FALLING], True, id="a checkpoint"),
        pytest.param([*FALLING[:39], {**FALLING[39], "checkpointStep": 390}], True, id="one that comes later"),
        pytest.param([*FALLING, {"checkpointStep": 390}][:40], True, id="none is recorded"),
    ],
)
def test_a_stop_waits_for_the_first_checkpoint(document, records, ends):
    found = document(records, {"autoStopLoss": 0.5})
    assert (found["decision"] is not None) == ends
    if "checkpointStep" in records[39] and "checkpointStep" not in records[0]:
        assert found["decision"]["step"] == 390


CSV = "epoch,step,train_loss,val_loss\n" + "".join(f"{n // 10},{n},{2 / (n + 1)},\n{n // 10},{n},,{3 / (n + 1)}\n" for n in range(20))  # fmt: skip
STATE = json.dumps(
    {
        "num_train_epochs": 3,
        "log_history": [
            *({"loss": 2 / (n + 1), "grad_norm": 1.0, "step": 10 * n, "epoch": n / 10} for n in range(20)),
            {"eval_loss": 0.4, "step": 190, "epoch": 1.9},
            {"train_loss": 0.01, "train_runtime": 10.0, "step": 190, "epoch": 1.9},
        ],
    }
)
GAPS = '{"step": 0, "loss": 3}\n\n{"step": 10, "loss": "0.4"}\n{"step": 20, "loss": 0.3, "note": "x", "flag": true, "none": null}'  # fmt: skip


@pytest.mark.parametrize(
    ("text", "rules", "end"),
    [
        pytest.param(CSV, {"autoStopLoss": 0.3}, ("auto_low_loss", 7), id="Lightning's CSV, with empty cells"),
        pytest.param(CSV, {"autoStopLoss": -1, "stopRules": [{"metric": "val_loss", "threshold": {"value": 0.3}}]}, ("auto_threshold", 11), id="another column"),
        pytest.param("step;loss\n".replace(";", ",") + "0,5\n1,0.4\n2,0.3\n", {"autoStopLoss": 0.5}, ("auto_low_loss", 2), id="a plain CSV"),
        pytest.param(STATE, {"autoStopLoss": 0.15}, ("auto_low_loss", 140), id="a trainer_state.json"),
        pytest.param(STATE, {"autoStopLoss": 0.05}, None, id="its summary is no loss"),
        pytest.param(GAPS, {"autoStopLoss": 0.5}, ("auto_low_loss", 20), id="lines with gaps, numbers as text and other values"),
        pytest.param(json.dumps(FALLING), {"autoStopLoss": 0.3}, ("auto_low_loss", 250), id="one JSON list"),
        pytest.param("\ufeff" + lines(FALLING), {"autoStopLoss": 0.3}, ("auto_low_loss", 250), id="with a byte order mark"),
        pytest.param(lines({"global_step": one["step"], "training_loss": one["loss"]} for one in FALLING), {"autoStopLoss": 0.3}, ("auto_low_loss", 250), id="the operator's names"),
        pytest.param(lines({"it": one["step"], "nll": one["loss"]} for one in FALLING), {"autoStopLoss": 0.3, "metrics": {"names": {"loss": ["nll"], "step": ["it"]}}}, ("auto_low_loss", 250), id="own names"),
        pytest.param(lines([{"step": n, "loss": 1e308} for n in range(5)]), {"autoStopLoss": 0.3}, None, id="the largest losses"),
        pytest.param(lines([{"step": n, "loss": -n} for n in range(5)]), {"autoStopLoss": -1, "stopRules": [{"threshold": {"value": -1.5}}]}, ("auto_threshold", 3), id="negative losses"),
    ],
)  # fmt: skip
def test_every_format_is_read(document, text, rules, end):
    decision = document(text, rules)["decision"]
    assert (decision and (decision["terminationStatus"], decision["step"])) == end


LOG = """Loading the data: 100%|##########| 10/10 [00:01<00:00]
{'loss': 2.5, 'grad_norm': 1.2, 'learning_rate': 5e-05, 'epoch': 0.1}
step 10 loss: 2.0
step 20 loss: 0.9
step 20 eval_loss: 0.1
step 30 loss: 0.4
step 40 loss: 0.3
"""


def test_a_log_is_read_by_the_code_of_the_metric_source(document):
    found = document(LOG, {"autoStopLoss": 0.5}, name="train.log")
    assert (found["decision"]["terminationStatus"], found["decision"]["step"]) == ("auto_low_loss", 40)


def test_a_log_is_read_with_own_patterns(document):
    log = "".join(f"it={n} objective {3 - n / 2}\n" for n in range(6))
    patterns = {"metrics": {"logs": {"patterns": [r"it=(?P<step>\d+) objective (?P<loss>[\d.]+)"]}}}
    assert document(log, {"autoStopLoss": 1.2, **patterns})["decision"]["step"] == 5


def test_tensorboards_events_are_read(tmp_path):
    file = tmp_path / "events.out.tfevents.1"
    file.write_bytes(TENSORBOARD + TENSORBOARD[:9])
    rows = rows_of(file, MetricNames())
    assert [(row.step, row.values["loss"], row.values["train/loss"]) for row in rows] == [
        (10, 2.0, 2.0),
        (20, 1.5, 1.5),
    ]
    assert isnan(rows[1].values["eval/loss"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "no row with a step", id="nothing"),
        pytest.param("{}\n", "no row with a step", id="no number"),
        pytest.param('{"loss": 1}\n', "no row with a step", id="no step"),
        pytest.param('{"step": 1}\n', "no row with a step", id="no value"),
        pytest.param('{"step": 1, "loss": 2}\n{"step"', "line 2 is no JSON", id="a line that was cut"),
        pytest.param('{"step": 1, "loss": 2}\n[1]\n', "line 2 is no JSON object", id="a line that is a list"),
        pytest.param('{"log_history": [1]}', "log_history entry 1 is no object", id="a state of numbers"),
        pytest.param("[1, 2]", "item 1 is no object", id="a list of numbers"),
        pytest.param("It trains.\nIt has ended.\n", "no row with a step", id="a text"),
        pytest.param("step,loss\n1,2,3\n", "line 2 has more cells", id="a row that is too long"),
        pytest.param('step,loss\n"1\n' + "x" * 200_000, "is no CSV", id="a cell without an end"),
        pytest.param("[" * 100_000, "no row with a step", id="brackets"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_exit_code_2_and_says_where(simulated, text, words):
    code, out, err = simulated(text)
    assert (code, out) == (2, "")
    assert words in err
    assert "run.jsonl" in err


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        pytest.param("a: [", "is no YAML", id="no YAML"),
        pytest.param("- 1\n", "has no fields", id="a list"),
        pytest.param({"stopRule": []}, "stopRule", id="a field that there is not"),
        pytest.param({"stopRules": [{"plateau": {"patience": 0}}]}, "patience", id="a value that is not allowed"),
        pytest.param({"stopRules": [{"name": "a"}]}, "exactly one of", id="a rule without a shape"),
        pytest.param({"autoStopLossSchedule": [{"step": 0, "loss": 1}, {"step": 1, "loss": 2}]}, "must fall", id="a schedule that rises"),
    ],
)  # fmt: skip
def test_rules_that_say_nothing_are_exit_code_2(simulated, rules, words):
    code, out, err = simulated(FALLING, rules)
    assert (code, out) == (2, "")
    assert words in err


def test_empty_rules_are_none(document):
    assert document(FALLING, "")["decision"] is None


@pytest.mark.parametrize("missing", ["file", "rules"])
def test_a_file_that_is_not_there_is_exit_code_2(tmp_path, capsys, missing):
    there = tmp_path / "run.jsonl"
    there.write_text(lines(FALLING), encoding="utf-8")
    arguments = ["simulate", str(tmp_path / "none")]
    if missing == "rules":
        arguments = ["simulate", str(there), "--rules", str(tmp_path / "none")]
    assert run(arguments) == Exit.USAGE
    assert "none" in capsys.readouterr().err


def test_bytes_that_are_no_text_are_refused(tmp_path):
    file = tmp_path / "run.bin"
    file.write_bytes(b"\x00\xff\xfe")
    with pytest.raises(UnreadableError, match="no text in UTF-8"):
        rows_of(file, MetricNames())


def test_people_get_the_decision_a_table_and_a_plot(simulated):
    rules = {
        "autoStopLoss": -1,
        "stopRules": [
            {"name": "flat", "metric": "eval_loss", "plateau": {"patience": 3, "minDelta": 0.1}},
            {"metric": "reward", "rising": {}, "action": "Shadow"},
        ],
    }
    code, out, err = simulated(FALLING, rules)
    said = out.splitlines()
    assert code == Exit.DONE
    assert said[0].startswith("auto_plateau: eval_loss 0.5549 at step 120")
    assert said[1].split() == ["RULE", "ACTION", "METRIC", "STEP", "VALUE", "SAVES"]
    assert said[2].split() == ["flat", "Stop", "eval_loss", "120", "0.5549", "69%", "of", "the", "steps"]
    assert said[3].split() == ["rising", "Shadow", "reward", "-", "-"]
    assert "ended at step 120" in out
    assert "looks at reward, which no row has. The rows have eval_loss, loss." in err


def test_the_time_that_a_rule_saves_is_shown_if_the_rows_have_times(simulated):
    _, out, _ = simulated([{**one, "time": 60 * n} for n, one in enumerate(FALLING)], {"autoStopLoss": 0.3})
    assert "36% of the steps, 14m" in out


def test_a_training_without_an_end_says_so(simulated):
    code, out, _ = simulated([{"step": -1, "loss": 2.0}, {"step": -2, "loss": 1.0}], {"autoStopLoss": 0.5})
    assert code == Exit.DONE
    assert out.startswith("No rule ends the run.")
