"""Cluster access through kubectl, which brings contexts, logins, certificates and the person's rights."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

from trainingrun_operator.api import names
from trainingrun_operator.cli.screen import note
from trainingrun_operator.cli.trouble import Exit, TroubleError, kubectl_failed
from trainingrun_operator.cli.words import listed
from trainingrun_operator.core import asking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.core.facts.run import Run

Json = dict[str, Any]

KIND: Final = f"{names.RUN_PLURAL}.{names.GROUP}"
MANAGER: Final = "kubectl-trainingrun"
"""Field manager of the plugin's patches."""
AGAIN_SECONDS: Final = 1
"""Pause before a watch is restarted."""
PATIENCE_SECONDS: Final = 3
"""Time after which kubectl's stderr is shown while it runs."""
SHOWN: Final = 10
"""Number of existing runs listed when a run is not found."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl with the person's flags."""

    flags: tuple[str, ...] = ()
    """`--context=…`, `--namespace=…`, `--as=…` and other flags for cluster and identity."""

    # -- runs -------------------------------------------------------------------------------------------------

    def run(self, name: str) -> Json:
        """Return a TrainingRun as stored.

        Raises:
            TroubleError: the run does not exist (the text lists existing runs) or may not be read.
        """
        try:
            return self._json("get", KIND, "--output=json", "--show-managed-fields", "--", name)
        except TroubleError as error:
            if error.reason != "NotFound":
                raise
        raise TroubleError(self._no_such_run(name), Exit.NO_SUCH_RUN)

    def runs(self, *, everywhere: bool = False, selector: str = "") -> list[Json]:
        """Return all TrainingRuns of the namespace, or of the cluster."""
        return list(
            self._json("get", KIND, "--output=json", *_scope(everywhere=everywhere, selector=selector))["items"]
        )

    def names(self, *, everywhere: bool = False) -> list[str]:
        """Names of all TrainingRuns; across the cluster as `namespace/name`."""
        template = '{range .items[*]}{.metadata.namespace}/{.metadata.name}{"\\n"}{end}'
        found = self.call("get", KIND, f"--output=jsonpath={template}", *_scope(everywhere=everywhere)).split()
        return sorted(found if everywhere else (one.partition("/")[2] for one in found))

    def patch(self, run: Run, patch: Json) -> None:
        """Send a merge patch to a run; it is refused if another run has taken the name.

        Raises:
            TroubleError: refused; carries the API server's message.
        """
        flags = ("--type=merge", f"--field-manager={MANAGER}", f"--patch={json.dumps(asking.of_uid(run.uid, patch))}")
        self.call("patch", KIND, *flags, "--", run.name)

    def changes(
        self, name: str = "", *, everywhere: bool = False, selector: str = "", seconds: float = 0
    ) -> Iterator[tuple[str, Json]]:
        """Yield `ADDED`, `MODIFIED` or `DELETED` with the run: first all existing runs, then changes.

        Args:
            name: of one run; empty for all.
            everywhere: in all namespaces.
            selector: label selector.
            seconds: duration; 0 for unlimited.

        Raises:
            TroubleError: the watch failed, or with `Exit.TIMEOUT` the duration is over.
        """
        one = (f"--field-selector=metadata.name={name}",) if name else ()
        arguments = (
            "get",
            KIND,
            "--watch",
            "--output-watch-events",
            "--output=json",
            *one,
            *_scope(everywhere=everywhere, selector=selector),
        )
        late, deadline = threading.Event(), time.monotonic() + seconds
        while True:
            # The API server ends every watch after some time; the next watch repeats known runs.
            left = max(0.1, deadline - time.monotonic()) if seconds else 0
            with self._process(*arguments) as process, _Aside(process) as aside, _stopped_after(left, process, late):
                yield from _documents(process)
                process.wait()
            if late.is_set():
                raise TroubleError("Timeout.", Exit.TIMEOUT)
            if process.returncode:
                raise kubectl_failed(aside.said)
            time.sleep(AGAIN_SECONDS)

    # -- objects of a run ---------------------------------------------------------------------------------------

    def config_map(self, name: str) -> Json | None:
        """Return a ConfigMap, None if there is none."""
        try:
            return self._json("get", "configmap", "--output=json", "--", name)
        except TroubleError as error:
            if error.reason == "NotFound":
                return None
            raise

    def config_maps(self, *, everywhere: bool = False, selector: str = "") -> list[Json]:
        """Return all ConfigMaps that match the selector."""
        return list(
            self._json("get", "configmaps", "--output=json", *_scope(everywhere=everywhere, selector=selector))["items"]
        )

    def logs(self, pod: str, container: str, *more: str) -> int:
        """Print a container's log directly to the terminal; returns kubectl's exit code."""
        command = [self._binary, "logs", *self.flags, pod, f"--container={container}", *more]
        return subprocess.run(command, check=False).returncode  # noqa: S603 - kubectl, with arguments and no shell

    def whoami(self) -> str:
        """The person's user name in the cluster; empty if unknown."""
        try:
            said = self._json("auth", "whoami", "--output=json")
        except TroubleError as error:
            if error.exit_code is Exit.NO_CLUSTER:
                raise
            return ""
        return str(((said.get("status") or {}).get("userInfo") or {}).get("username", ""))

    @cached_property
    def namespace(self) -> str:
        """The current namespace."""
        for flag in self.flags:
            if flag.startswith("--namespace="):
                return flag.partition("=")[2]
        with contextlib.suppress(TroubleError):
            return self.call("config", "view", "--minify", "--output=jsonpath={..namespace}").strip() or "default"
        return "default"

    # -- kubectl itself ---------------------------------------------------------------------------------------

    def call(self, *arguments: str) -> str:
        """Return the output of a kubectl command.

        Raises:
            TroubleError: kubectl failed; carries its message.
        """
        with self._process(*arguments) as process, _Aside(process) as aside:
            out = process.stdout.read() if process.stdout is not None else ""
        if process.returncode:
            raise kubectl_failed(aside.said)
        return out

    def _json(self, *arguments: str) -> Json:
        return dict(json.loads(self.call(*arguments)))

    def _process(self, *arguments: str) -> subprocess.Popen[str]:
        command = [self._binary, *_with_flags(arguments, self.flags)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - kubectl, with arguments and no shell

    @cached_property
    def _binary(self) -> str:
        found = shutil.which("kubectl")
        if found is None:
            raise TroubleError(
                "kubectl is not on PATH. This plugin needs it to reach the cluster.",
                Exit.NO_CLUSTER,
            )
        return found

    def _no_such_run(self, name: str) -> str:
        sentence = f"There is no TrainingRun {name!r} in namespace {self.namespace}."
        try:
            there = self.names()
            elsewhere = [] if there else [one for one in self.names(everywhere=True) if one.endswith(f"/{name}")]
        except TroubleError:
            return f"{sentence} Check the namespace (--namespace)."
        if elsewhere:
            return f"{sentence} Found {listed(elsewhere[:SHOWN])}: set --namespace."
        if not there:
            return f"{sentence} The namespace has no TrainingRuns. Check --namespace."
        more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
        return f"{sentence} There {'is' if len(there) == 1 else 'are'}: {', '.join(there[:SHOWN])}{more}."


class _Aside:
    """kubectl's stderr: kept as the reason of a failure, and shown if the call takes long, because a login may prompt there."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: list[str] = []
        self._shown = False
        self._lock = threading.Lock()
        self._patience = threading.Timer(PATIENCE_SECONDS, self._show)
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)

    @property
    def said(self) -> str:
        """All of its text."""
        return "".join(self._lines)

    def __enter__(self) -> Self:
        self._patience.daemon = True
        self._patience.start()
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patience.cancel()
        self._reader.join()

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stderr or ():
            with self._lock:
                self._lines.append(line)
                if self._shown:
                    note(line.rstrip("\n"))

    def _show(self) -> None:
        with self._lock:
            self._shown = True
            for line in self._lines:
                note(line.rstrip("\n"))


def _with_flags(arguments: tuple[str, ...], flags: tuple[str, ...]) -> tuple[str, ...]:
    """Insert the flags right after the verb: flags after `--` would not be parsed."""
    return (*arguments[:1], *flags, *arguments[1:])


def _scope(*, everywhere: bool = False, selector: str = "") -> tuple[str, ...]:
    return (*(("--all-namespaces",) if everywhere else ()), *((f"--selector={selector}",) if selector else ()))


def _documents(process: subprocess.Popen[str]) -> Iterator[tuple[str, Json]]:
    """Parse watch events, one a line."""
    for line in process.stdout or ():
        event = json.loads(line)
        yield str(event["type"]), dict(event["object"])


@contextlib.contextmanager
def _stopped_after(seconds: float, process: subprocess.Popen[str], late: threading.Event) -> Iterator[None]:
    """End the process after `seconds`, or on exit."""

    def stop() -> None:
        late.set()
        process.terminate()

    timer = threading.Timer(seconds, stop)
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.terminate()
