from __future__ import annotations

import ast
import copy
import importlib
import itertools
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "manifests" / "samples"
ENV = {
    "TRAININGRUN_BUCKET": "bucket",
    "TRAININGRUN_S3_ENDPOINT_IN_CLUSTER": "https://s3.example.test",
    "TRAININGRUN_TRAINING_IMAGE": "trainingrun-training:dev",
}


MODULES = ("demo", "ground", "proof", "story", "view")


@pytest.fixture(scope="module")
def modules():
    """The demo is a script beside its helpers: found as Python finds them for it, and forgotten afterwards."""
    sys.path.insert(0, str(ROOT / "tools" / "demo"))
    yield {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(str(ROOT / "tools" / "demo"))
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture
def demo(modules):
    return modules["demo"]


@pytest.fixture
def story(modules):
    return modules["story"]


@pytest.fixture
def proof(modules):
    return modules["proof"]


@pytest.fixture
def ground(modules):
    return modules["ground"]


def seen(step, at):
    return {"status": {"progress": {"step": step, "lastObservationTime": at}}}


@pytest.mark.parametrize("name", ["low-loss", "log-only", "user-stop", "complete"])
def test_a_sample_differs_from_what_is_applied_only_in_its_places(name, demo):
    sample = (SAMPLES / f"{name}.yaml").read_text()

    applied, written = (yaml.safe_load(text) for text in (demo.adapted(sample, ENV), sample))

    checkpoint = applied["spec"]["checkpoint"]
    assert checkpoint["destination"] == "s3://bucket/runs"
    assert checkpoint["s3"]["endpointURL"] == "https://s3.example.test"
    written["spec"]["checkpoint"] = checkpoint
    written["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = 8
    assert applied == written


def test_a_sample_without_a_place_to_fill_is_refused(demo, ground):
    with pytest.raises(ground.TroubleError, match="expected one"):
        demo.adapted("kind: TrainingRun\n", ENV)


def test_what_ending_early_saved_is_steps_left_times_pace_times_gpus(story):
    saving = story.Saving(steps_left=300, seconds_per_step=0.2, gpus=8)

    assert saving.gpu_minutes == pytest.approx(8)
    assert "estimate" in str(saving)


def test_a_run_that_took_all_of_its_steps_saved_nothing(story):
    assert story.Saving(0, 0.2, 8).gpu_minutes == 0


def test_the_pace_is_that_of_the_operators_own_observations(story, ground):
    pace = story.Pace()
    for step, at in ((10, "2026-01-01T00:00:00Z"), (60, "2026-01-01T00:00:10Z")):
        pace.add(ground.Look(at=0, runs={"a": seen(step, at)}))

    assert pace.of("a") == pytest.approx(0.2)
    assert pace.of("b") is None


def test_a_restarted_training_has_its_pace_from_its_restart(story, ground):
    pace = story.Pace()
    for step, second in ((10, 0), (60, 10), (40, 40), (50, 50)):
        pace.add(ground.Look(at=0, runs={"a": seen(step, f"2026-01-01T00:00:{second:02d}Z")}))

    assert pace.of("a") == pytest.approx(1)


def test_a_stop_is_told_with_its_reason_and_each_phase_once(story, ground):
    stop = {"phase": "Saving", "status": "user_stop", "message": "Stopped by hand."}
    before = ground.Look(at=0, runs={"a": {}})
    now = ground.Look(at=1, runs={"a": {"status": {"termination": stop}}})

    assert [what for _, what in story.sentences(before, now)] == [
        "ends: user_stop. Stopped by hand.",
        "Saving: the agent ships what is not in the bucket yet",
    ]
    assert story.sentences(now, now) == []


def test_a_machine_is_told_from_boot_to_end(story, ground):
    looks = [
        ground.Look(at=0),
        ground.Look(at=1, desired=1, machines=(ground.Machine("i-1", "running"),)),
        ground.Look(at=2, desired=1, machines=(ground.Machine("i-1", "running", node="n", ready=True, gpus=8),)),
        ground.Look(at=3, machines=(ground.Machine("i-1", "terminated"),)),
    ]

    told = [what for a, b in itertools.pairwise(looks) for _, what in story.sentences(a, b)]

    assert told == [
        "machine i-1 running",
        "desired capacity 0 -> 1",
        "node n is ready: 8 GPUs, machine i-1",
        "machine i-1 terminated",
        "node n is gone from the cluster",
        "desired capacity 1 -> 0",
    ]


def test_every_run_of_the_demo_has_its_sample_and_each_sample_but_the_stub_is_shown(demo):
    assert {path.stem for path in SAMPLES.glob("*.yaml")} - {"stub"} == set(demo.SAMPLES)


LOG_ONLY = yaml.safe_load((SAMPLES / "log-only.yaml").read_text())


def log_only(*, source="Logs", steps=(90, 100), code=""):
    """The sample after its end, with these observations as evidence, and this line more in its code."""
    run = copy.deepcopy(LOG_ONLY)
    run["spec"]["template"]["spec"]["containers"][0]["args"][0] += code
    evidence = [{"what": "loss", "value": "0.3", "step": step} for step in steps]
    run["status"] = {"effective": {"metricsSource": source}, "termination": {"evidence": evidence}}
    return run


def test_the_run_that_only_prints_was_ended_by_losses_of_its_log(proof):
    (check,) = proof.from_its_log(log_only())

    assert check.true
    assert "90 and 100" in check.sentence


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"source": "Prometheus"}, "Prometheus"),
        ({"steps": ()}, "none"),
        ({"code": "import prometheus_client\n"}, "prometheus"),
        ({"code": "stop = os.path.exists('/checkpoints/STOP_TRAINING')\n"}, "stop_training"),
        ({"code": "folder = os.environ['TRAININGRUN_CHECKPOINT_DIR']\n"}, "trainingrun"),
    ],
    ids=["another source", "no loss decided", "a metrics page", "a stop file", "a variable of the operator"],
)
def test_a_run_that_only_prints_is_no_proof_with(wrong, said, proof):
    (check,) = proof.from_its_log(log_only(**wrong))

    assert not check.true
    assert said in check.sentence


@pytest.mark.parametrize("name", ["low-loss", "user-stop", "complete"])
def test_of_a_run_with_a_metrics_page_nothing_is_said_about_its_log(name, proof):
    assert proof.from_its_log(yaml.safe_load((SAMPLES / f"{name}.yaml").read_text())) == []


def test_the_training_that_only_prints_imports_its_library_and_nothing_that_serves_or_listens():
    """What it imports is all that it can do."""
    (container,) = LOG_ONLY["spec"]["template"]["spec"]["containers"]
    nodes = list(ast.walk(ast.parse(container["args"][0])))

    imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"json", "os", "time", "numpy"}
    assert not any(isinstance(node, ast.ImportFrom) for node in nodes)
    assert "ports" not in container
    assert "env" not in container
