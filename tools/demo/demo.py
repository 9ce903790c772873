#!/usr/bin/env python3
"""Four real trainings side by side, ended in three ways; the demo checks every promise before it reports success.

    make demo           cluster, image, operator, the demo, then the cluster is removed
    KEEP=1 make demo    keeps the cluster

The runs are those of manifests/samples: one ends by its loss, one by its loss although its code does not know the operator, one is stopped by a
person, one completes. The exit code is 0 only if each ended for its reason, its checkpoint loads from the bucket with the reported numbers, and
its node is gone.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import proof
import story
from ground import BUSY, NAMESPACE, ROOT, Ground, Look, TroubleError, ground
from view import View

Json = dict[str, Any]

SAMPLES = {
    "low-loss": proof.Ending("auto_low_loss", "Succeeded"),
    "log-only": proof.Ending("auto_low_loss", "Succeeded"),
    "user-stop": proof.Ending("user_stop", "Stopped"),
    "complete": proof.Ending("auto_complete", "Succeeded"),
}
MANIFESTS = ROOT / "build" / "demo"
SECRET = "s3-credentials"  # noqa: S105 - its name
GPUS_OF_A_MACHINE = 8  # as tools/cluster/lib/settings.sh says
STOPPED = "user-stop"
STOP_AT_STEP = 100
STOP = ("kubectl", "patch", "trainingrun", STOPPED, "--type", "merge", "-p", '{"spec":{"stop":true}}')

LOOK_SECONDS = 1.0
BUSY_SECONDS = 30.0
CLEAR_SECONDS = 120.0
START_SECONDS = 150.0
END_SECONDS = 300.0

TRY_NEXT = f"""
The cluster stays. What to try next:

  . .cluster/env && kubectl config set-context --current --namespace {NAMESPACE}
  kubectl get trun                          # the four runs; with -o wide also best loss, checkpoint and nodes
  kubectl describe trun low-loss            # why it ended, where its checkpoint is, the state of its node
  kubectl explain trun.spec                 # every field, explained

  sed 's/name: user-stop/name: again/' {MANIFESTS.relative_to(ROOT)}/user-stop.yaml | kubectl apply -f -
  kubectl get trun -w                       # a machine boots for it, then it trains
  kubectl logs -f job/again -c train        # the training's log
  kubectl patch trun again --type merge -p '{{"spec":{{"stop":true}}}}'
  kubectl wait --for=condition=Finished trun/again --timeout=3m

  make cluster-down                         # removes the cluster
"""


class Demo:
    """The demo from an empty namespace to the last check."""

    def __init__(self, base: Ground, view: View) -> None:
        self.base, self.view = base, view
        self.pool = base.pool()
        self.pace = story.Pace()
        self.stopped = self.shared = False
        self.began = time.monotonic()

    def play(self) -> tuple[list[proof.Report], proof.Check]:
        """Start, watch, stop, examine. Raises TroubleError at the first promise that cannot be kept."""
        self.prepare()
        look = self.watch(self.start())
        self.view.tell(
            "demo", "all four are over; now what their statuses say is checked against bucket, cluster and cloud"
        )
        reports = [
            proof.examine(self.base, look.runs[name], ending, self.pace.of(name)) for name, ending in SAMPLES.items()
        ]
        return reports, proof.capacity(self.base, self.pool, shared=self.shared)

    # -- before -------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Create a namespace without runs, with the Secret that the runs name."""
        self.base.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}}
        )
        self.clear()
        env = self.base.env
        data = {
            "AWS_ACCESS_KEY_ID": env["AWS_ACCESS_KEY_ID"],
            "AWS_SECRET_ACCESS_KEY": env["AWS_SECRET_ACCESS_KEY"],
            "ca.crt": Path(env["TRAININGRUN_S3_CA"]).read_text(),
        }
        self.base.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": data})
        self.view.tell("demo", f"namespace {NAMESPACE} with the Secret {SECRET}: keys and CA of the bucket")

    def clear(self) -> None:
        """Delete the runs of an earlier demo; their checkpoints stay in the bucket."""
        if not (left := self.base.leftovers()):
            return
        self.view.tell("demo", f"deletes what an earlier demo left: {', '.join(left)}")
        self.base.run("kubectl", "delete", "trainingruns", "--all", "--wait=false")
        until = time.monotonic() + CLEAR_SECONDS
        while left := self.base.leftovers():
            if time.monotonic() > until:
                raise TroubleError(
                    f"Objects of an earlier demo still exist after {CLEAR_SECONDS:.0f} s: {', '.join(left)}."
                )
            time.sleep(LOOK_SECONDS)

    def start(self) -> Look:
        """Apply the samples with the cluster's bucket; returns the state before."""
        MANIFESTS.mkdir(parents=True, exist_ok=True)
        for name in SAMPLES:
            sample = (ROOT / "manifests" / "samples" / f"{name}.yaml").read_text()
            (MANIFESTS / f"{name}.yaml").write_text(adapted(sample, self.base.env))
        command = (
            "kubectl",
            "apply",
            *(part for name in SAMPLES for part in ("-f", f"{MANIFESTS.relative_to(ROOT)}/{name}.yaml")),
        )
        before = self.look()
        self.shared = bool(before.others or before.desired)
        self.began = time.monotonic()
        self.view.tell("$", shlex.join(command), "bold")
        self.base.run(*command)
        self.view.tell(
            "log-only",
            "prints its losses and knows nothing of the operator, which reads them in its log (metrics.source: Logs)",
        )
        return before

    # -- meanwhile ----------------------------------------------------------------------------------------------

    def watch(self, before: Look) -> Look:
        """Show the progress until all runs are over."""
        while True:
            look = self.look()
            self.shared |= bool(look.others)
            self.pace.add(look)
            for who, what in story.sentences(before, look):
                self.view.tell(who, what)
            self.view.show(look)
            if all(name in look.runs and story.finished(look.runs[name]) for name in SAMPLES):
                return look
            self.judge(look)
            if not self.stopped and story.step_of(look.runs[STOPPED]) >= STOP_AT_STEP:
                self.stop()
            before = look
            time.sleep(LOOK_SECONDS)

    def look(self) -> Look:
        """Read the current state; a busy cluster is retried for a while."""
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self.base.look(self.pool, time.monotonic() - self.began)
            except BUSY as error:
                if time.monotonic() > until:
                    raise TroubleError(
                        f"The cluster or its cloud has not responded for {BUSY_SECONDS:.0f} s: {error}"
                    ) from error
            time.sleep(LOOK_SECONDS)

    def judge(self, look: Look) -> None:
        """Raise TroubleError if a run can no longer end as expected, or takes too long."""
        for name in SAMPLES:
            if name not in look.runs:
                raise TroubleError(f"The run {name} was deleted.")
            run = look.runs[name]
            accepted = story.condition(run, "Accepted")
            if accepted["status"] == "False":
                raise TroubleError(f"{name} was refused: {accepted['message']}")
            if look.at > START_SECONDS and not run.get("status", {}).get("startTime"):
                raise TroubleError(f"{name} does not train after {START_SECONDS:.0f} s: {self.base.why_pending(name)}")
            if look.at > END_SECONDS and not story.finished(run):
                raise TroubleError(f"{name} is not over after {END_SECONDS:.0f} s: {story.standing(run)}")
        if not self.stopped and look.runs[STOPPED].get("status", {}).get("termination"):
            raise TroubleError(f"{STOPPED} ended before the demo stopped it: {story.standing(look.runs[STOPPED])}")

    def stop(self) -> None:
        """Stop the run with the command that a user would type."""
        self.stopped = True
        self.view.tell("$", shlex.join(STOP), "bold")
        self.view.tell("", self.base.run(*STOP).strip())


# Enforces Pod Security on the runs' pods; agent and gate comply as well.
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def adapted(sample: str, env: dict[str, str]) -> str:
    """A sample with the cluster's bucket and endpoint, and all GPUs of a machine, so that each run has its own machine to release."""
    places = {
        r"destination: \S+": f"destination: s3://{env['TRAININGRUN_BUCKET']}/runs",
        r"endpointURL: .*": f"endpointURL: {env['TRAININGRUN_S3_ENDPOINT_IN_CLUSTER']}",
        r"nvidia\.com/gpu: 1": f"nvidia.com/gpu: {GPUS_OF_A_MACHINE}",
        r"image: trainingrun-training:dev": f"image: {env['TRAININGRUN_TRAINING_IMAGE']}",
    }
    for pattern, place in places.items():
        sample, found = re.subn(pattern, lambda _, place=place: place, sample)
        if found != 1:
            raise TroubleError(f"The sample has {found} lines like `{pattern}`, expected one:\n{sample}")
    return sample


def summary(view: View, reports: list[proof.Report], capacity: proof.Check, seconds: float) -> list[str]:
    """Print the results; returns the failed checks."""
    say = view.line
    say()
    for report in reports:
        status = report.run.get("status", {})
        say(report.name, "bold")
        say(f"  {status.get('terminationMessage', 'It has not ended.')}")
        if uri := status.get("checkpoint", {}).get("uri"):
            say(f"  checkpoint: {uri}")
        for check in report.checks:
            view.check(check)
        say(f"  saved: {report.saving or 'not known, too few steps were seen'}", "dim")
        say()
    view.check(capacity)
    minutes = sum(report.saving.gpu_minutes for report in reports if report.saving)
    say(
        f"  saved in all, estimated: {minutes:.1f} GPU minutes (idle time of the machine not counted); this took {seconds:.0f} s"
    )
    say()
    wrong = [f"{report.name} {check.sentence}" for report in reports for check in report.checks if not check.true]
    return wrong if capacity.true else [*wrong, capacity.sentence]


def fail(view: View, base: Ground, sentences: list[str]) -> int:
    """Print the failed checks and describe the runs they name, or all runs."""
    view.line()
    named = [name for name in SAMPLES if any(sentence.startswith(f"{name} ") for sentence in sentences)]
    view.line(base.describe(named))
    for sentence in sentences:
        view.line(f"The demo failed: {sentence}", "bold red")
    view.line("The cluster is kept (. .cluster/env); `make cluster-down` removes it.")
    return 1


def end(view: View, *, keep: bool) -> int:
    """Report success."""
    view.line("All of it is true.", "bold green")
    if keep:
        view.line(TRY_NEXT)
        return 0
    view.line()
    view.line("The cluster is removed (KEEP=1 make demo keeps it).")
    sys.stdout.flush()
    return subprocess.run([str(ROOT / "tools" / "cluster" / "cluster"), "down"], check=False).returncode


def main() -> int:
    """Run the demo; returns the exit code."""
    view = View()
    try:
        with ground() as base:
            base.require_operator()
            try:
                with view:
                    demo = Demo(base, view)
                    reports, capacity = demo.play()
            except (TroubleError, *BUSY) as trouble:
                return fail(view, base, [str(trouble)])
            if wrong := summary(view, reports, capacity, time.monotonic() - demo.began):
                return fail(view, base, wrong)
        return end(view, keep=os.environ.get("KEEP", "0") not in ("", "0"))
    except (TroubleError, *BUSY) as trouble:
        view.line(f"The demo cannot start: {trouble}", "bold red")
        return 1
    except KeyboardInterrupt:
        view.line()
        view.line(
            f"Interrupted. Started runs continue in namespace {NAMESPACE}, and the cluster is kept:"
            " `make demo` starts again, `make cluster-down` removes it."
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
