"""The cluster, asked through kubectl: contexts, logins and certificates are kubectl's own, and so is whatever the person may not do."""

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
"""Field manager of what the plugin writes."""
AGAIN_SECONDS: Final = 1
"""Before a watch that has ended is begun anew."""
PATIENCE_SECONDS: Final = 3
"""So long kubectl may take before what it writes aside is shown."""
SHOWN: Final = 10
"""So many runs are named where one was not found."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl with the flags that the person gave."""

    flags: tuple[str, ...] = ()
    """`--context=…`, `--namespace=…`, `--as=…`, and what else says where and as whom."""

    # -- runs -------------------------------------------------------------------------------------------------

    def run(self, name: str) -> Json:
        """Return a TrainingRun as stored.

        Raises:
            TroubleError: there is none, which names those that there are; or it may not be read.
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
        """Names of all TrainingRuns; in the whole cluster as `namespace/name`."""
        template = '{range .items[*]}{.metadata.namespace}/{.metadata.name}{"\\n"}{end}'
        found = self.call("get", KIND, f"--output=jsonpath={template}", *_scope(everywhere=everywhere)).split()
        return sorted(found if everywhere else (one.partition("/")[2] for one in found))

    def patch(self, run: Run, patch: Json) -> None:
        """Merge a patch into a run, and into no other that has taken its name meanwhile.

        Raises:
            TroubleError: with the API server's own words, where it refuses.
        """
        flags = ("--type=merge", f"--field-manager={MANAGER}", f"--patch={json.dumps(asking.of_uid(run.uid, patch))}")
        self.call("patch", KIND, *flags, "--", run.name)

    def changes(
        self, name: str = "", *, everywhere: bool = False, selector: str = "", seconds: float = 0
    ) -> Iterator[tuple[str, Json]]:
        """Yield `ADDED`, `MODIFIED` or `DELETED` with the run, first for all that are there, then as they change; for ever.

        Args:
            name: of one run; empty: all of them.
            everywhere: in all namespaces.
            selector: of labels.
            seconds: how long to go on; 0: for ever.

        Raises:
            TroubleError: the watch broke, or with `Exit.TIMEOUT` time is up.
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
            # The API server ends every watch after some time; what is told again then is known already.
            left = max(0.1, deadline - time.monotonic()) if seconds else 0
            with self._process(*arguments) as process, _Aside(process) as aside, _stopped_after(left, process, late):
                yield from _documents(process)
                process.wait()
            if late.is_set():
                raise TroubleError("Time is up.", Exit.TIMEOUT)
            if process.returncode:
                raise kubectl_failed(aside.said)
            time.sleep(AGAIN_SECONDS)

    # -- what belongs to a run --------------------------------------------------------------------------------

    def config_map(self, name: str) -> Json | None:
        """Return a ConfigMap, None if there is none."""
        try:
            return self._json("get", "configmap", "--output=json", "--", name)
        except TroubleError as error:
            if error.reason == "NotFound":
                return None
            raise

    def config_maps(self, *, everywhere: bool = False, selector: str = "") -> list[Json]:
        """Return all ConfigMaps of these labels."""
        return list(
            self._json("get", "configmaps", "--output=json", *_scope(everywhere=everywhere, selector=selector))["items"]
        )

    def logs(self, pod: str, container: str, *more: str) -> int:
        """Have kubectl print a container's log straight to the terminal; returns kubectl's exit code."""
        command = [self._binary, "logs", *self.flags, pod, f"--container={container}", *more]
        return subprocess.run(command, check=False).returncode  # noqa: S603 - kubectl, with arguments and no shell

    def whoami(self) -> str:
        """The person's user name as the cluster knows it; empty if it does not say."""
        try:
            said = self._json("auth", "whoami", "--output=json")
        except TroubleError as error:
            if error.exit_code is Exit.NO_CLUSTER:
                raise
            return ""
        return str(((said.get("status") or {}).get("userInfo") or {}).get("username", ""))

    @cached_property
    def namespace(self) -> str:
        """Where the person stands."""
        for flag in self.flags:
            if flag.startswith("--namespace="):
                return flag.partition("=")[2]
        with contextlib.suppress(TroubleError):
            return self.call("config", "view", "--minify", "--output=jsonpath={..namespace}").strip() or "default"
        return "default"

    # -- kubectl itself ---------------------------------------------------------------------------------------

    def call(self, *arguments: str) -> str:
        """What kubectl prints.

        Raises:
            TroubleError: it failed; with its words as a sentence.
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
                "There is no kubectl on PATH: this is its plugin, and speaks to the cluster through it.",
                Exit.NO_CLUSTER,
            )
        return found

    def _no_such_run(self, name: str) -> str:
        sentence = f"There is no TrainingRun {name!r} in namespace {self.namespace}."
        try:
            there = self.names()
            elsewhere = [] if there else [one for one in self.names(everywhere=True) if one.endswith(f"/{name}")]
        except TroubleError:
            return f"{sentence} Is it the right namespace (--namespace)?"
        if elsewhere:
            return f"{sentence} There is {listed(elsewhere[:SHOWN])}: name its namespace with --namespace."
        if not there:
            return f"{sentence} There are none there at all: is it the right one (--namespace)?"
        more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
        return f"{sentence} There {'is' if len(there) == 1 else 'are'}: {', '.join(there[:SHOWN])}{more}."


class _Aside:
    """What kubectl writes to stderr: kept, for it may be why it fails; shown once it takes long, for a login may ask for something there."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: list[str] = []
        self._shown = False
        self._lock = threading.Lock()
        self._patience = threading.Timer(PATIENCE_SECONDS, self._show)
        self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)

    @property
    def said(self) -> str:
        """All of it."""
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
    """The person's flags right after the verb, so that nothing behind `--` swallows them."""
    return (*arguments[:1], *flags, *arguments[1:])


def _scope(*, everywhere: bool = False, selector: str = "") -> tuple[str, ...]:
    return (*(("--all-namespaces",) if everywhere else ()), *((f"--selector={selector}",) if selector else ()))


def _documents(process: subprocess.Popen[str]) -> Iterator[tuple[str, Json]]:
    """Kubectl writes a watch event as one line."""
    for line in process.stdout or ():
        event = json.loads(line)
        yield str(event["type"]), dict(event["object"])


@contextlib.contextmanager
def _stopped_after(seconds: float, process: subprocess.Popen[str], late: threading.Event) -> Iterator[None]:
    """End the process when time is up, and in any case at the end."""

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
