"""The cluster half of `make chaos`: real runs that end for several reasons at once, while their operator is killed at effects drawn from the seed."""

from __future__ import annotations

import random
import re
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from chaos.tally import Tally
from e2e.api import Api
from e2e.bucket import Bucket
from e2e.cloud import Cloud
from e2e.ground import Ground
from e2e.own_operator import OwnOperator
from e2e.runs import Run, Space, remove_namespaces, unique

KILLS_EACH: Final = 4
"""So many times the operator is killed for each run, at any effect of any of them."""
EFFECTS_EACH: Final = 30
"""About as many effects a run has; kills are drawn among them."""
SECONDS: Final = 300
CAUSES: Final = ("user stop", "exit", "deleted", "user stop on a GPU")
ENDS: Final = {"user stop": "user_stop", "exit": "auto_complete", "user stop on a GPU": "user_stop"}
TERMINATE: Final = "cloud TerminateInstanceInAutoScalingGroup"


def on_cluster(runs: int, seed: int) -> Tally:
    """End so many real runs; the counts are read from audit log, bucket, training logs and cloud.

    Raises:
        NoGroundError: no cluster is up.
    """
    ground, draw = Ground.find(), random.Random(seed)  # noqa: S311 - drawn again from the same seed
    space = Space(
        ground, Api(ground.kubeconfig), Bucket.of(ground), Cloud.of(ground), unique("chaos"), Path(tempfile.mkdtemp())
    )
    space.open()
    try:
        own = OwnOperator.open(space)
        for at in sorted(draw.sample(range(runs * EFFECTS_EACH), runs * KILLS_EACH)):
            own.halt(".*", ".*", draw.choice(("before", "after")), skip=at)
        with ThreadPoolExecutor(runs) as pool:
            stories = [pool.submit(_story, space, own, number, CAUSES[number % len(CAUSES)]) for number in range(runs)]
            lost, complaints = zip(*(story.result() for story in stories), strict=True)
        for complaint in filter(None, complaints):
            print(f"chaos: on the cluster: {complaint}", flush=True)
        deletions = Counter(one.name for one in space.audit("delete", "pods"))
        released = sum(one["effect"] == TERMINATE and one.get("status") == 200 for one in own.state()["effects"])
        machines = sum(CAUSES[number % len(CAUSES)].endswith("GPU") for number in range(runs))
        return Tally(
            runs=runs,
            faults=own.state()["starts"] - 1,
            lost_bytes=sum(lost),
            double_deletes=sum(count - 1 for count in deletions.values()),
            double_releases=max(0, released - machines),
            unconverged=sum(map(bool, complaints)),
        )
    finally:
        space.close()
        remove_namespaces([space], 60)


def _story(space: Space, own: OwnOperator, number: int, cause: str) -> tuple[int, str]:
    """One run to its end: bytes that it wrote and that are in no commit, and what is wrong with its end."""
    name = f"run{number}"
    try:
        run = _train(space, own, name, cause)
        if cause == "deleted":
            space.api.delete(run.path)
            run.wait_gone(SECONDS)
        else:
            if cause != "exit":
                run.merge({"spec": {"stop": True}})
            status = run.wait_finished(SECONDS)
            run.assert_checkpoint_proven(status)
            assert status["terminationStatus"] == ENDS[cause], f"{name} ended as {status['terminationStatus']}"
        space.api.wait(
            f"/api/v1/namespaces/{space.name}/pods",
            lambda pod: pod is None,
            f"no pod of {name} is left",
            60,
            selector=run.selector,
        )
        return _lost(run), ""
    except Exception as error:  # noqa: BLE001 - a story that goes wrong is counted, and the others go on
        return 0, f"{name} ({cause}): {error}"


def _train(space: Space, own: OwnOperator, name: str, cause: str) -> Run:
    epochs = "1" if cause == "exit" else "100"
    stub = ("stub-training", "--epochs", epochs, "--step-seconds", "0.1", "--save-every", "10")
    gpus = 8 if cause.endswith("GPU") else 0
    run = space.run(name, *stub, container={"image": space.ground["TRAININGRUN_IMAGE"]}, labels=own.labels, gpus=gpus)
    run.wait_training(timeout=SECONDS)
    if cause != "exit":
        run.wait_condition("CheckpointSaved", timeout=SECONDS)
    return run


def _lost(run: Run) -> int:
    """By the training's own log: the checkpoint that it said it had saved last, if no commit holds it."""
    written = [int(step) for step in re.findall(r"saved checkpoint-(\d+)", run.log.text)]
    commits = [commit for commit in run.commits() if commit.checkpoint is not None]
    newest = max((commit.checkpoint.step or 0 for commit in commits if commit.checkpoint), default=0)
    return commits[-1].total_bytes if written and written[-1] > newest else 0
