"""Takes what a page of NVIDIA's DCGM exporter shows of the GPUs of each pod, in bounded time.

The exporter writes Prometheus' text format, one series for each GPU (``internal/pkg/rendermetrics`` of NVIDIA/dcgm-exporter), and adds the labels
``namespace`` and ``pod`` of the pod that a GPU is assigned to. A Prometheus that scrapes it may have renamed these to ``exported_namespace`` and
``exported_pod``, and shows them so under ``/federate``, with the time of each value.

A value that cannot be right counts as not shown: a DCGM without a value shows 9223372036854775794 or similar numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.facts.gpus import Gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STALE_SECONDS: Final = 120
"""A value with a time that is further away than this counts as not shown."""
_UTILIZATION: Final = {b"DCGM_FI_DEV_GPU_UTIL": 1, b"DCGM_FI_PROF_GR_ENGINE_ACTIVE": 100}
"""The names that show utilization, each with what makes it a percentage. The second is the one that slices of a GPU (MIG) have."""
_POWER: Final = b"DCGM_FI_DEV_POWER_USAGE"
_PERCENT_MAX: Final = 100
_WATTS_MAX: Final = 100_000
_LINE_MAX: Final = 8192
"""Bytes of a line that is read; a longer one counts as not shown."""
_LABEL: Final = re.compile(rb"""[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,|(?=\}))""")
_VALUE: Final = re.compile(rb"""\}[ \t]*([^ \t\r]+)(?:[ \t]+([0-9]{1,18}))?[ \t]*\r?\Z""")
_TWICE_RENAMED: Final = b"exported_exported_"
"""Prefix of a label that Prometheus had to rename because the exporter itself shows one with the prefix ``exported_``: whose pod it is, is not known."""

Labels = dict[bytes, bytes]
PodKey = tuple[str, str]
"""Namespace and name."""
Device = tuple[bytes, ...]


@dataclass
class Shown:
    """What a page shows of one GPU; infinite: a value that cannot be right; None: no value."""

    utilization: float | None = None
    power: float | None = None

    def add(self, other: Shown) -> None:
        """Keep the larger values: a GPU that is busy on one page is busy."""
        self.utilization = _larger(self.utilization, other.utilization)
        self.power = _larger(self.power, other.power)

    @property
    def gpu(self) -> Gpu:
        """The GPU, without what cannot be right."""
        return Gpu(*(None if value == inf else value for value in (self.utilization, self.power)))


Page = dict[PodKey, dict[Device, Shown]]


def parse(page: bytes, *, now: float, federated: bool) -> Page:
    """Return the GPUs of each pod.

    Args:
        page: of an exporter, or of Prometheus.
        now: seconds since 1970.
        federated: it is a page of Prometheus, so that labels may have been renamed. An exporter may show labels of pods, which are their authors'.
    """
    found: Page = {}
    for name in (*_UTILIZATION, _POWER):
        factor, most = (1, _WATTS_MAX) if name == _POWER else (_UTILIZATION[name], _PERCENT_MAX)
        for labels, text in _series(page, name):
            pod = _pod(labels, federated=federated)
            if pod is None:
                continue
            value = _number(text, factor, most, now)
            shown = Shown(power=value) if name == _POWER else Shown(utilization=value)
            found.setdefault(pod, {}).setdefault(_device(labels), Shown()).add(shown)
    return found


def merge(into: Page, page: Page) -> None:
    """Add the GPUs of another page."""
    for pod, devices in page.items():
        known = into.setdefault(pod, {})
        for device, shown in devices.items():
            known.setdefault(device, Shown()).add(shown)


def _series(page: bytes, name: bytes) -> Iterator[tuple[Labels, bytes]]:
    """Yield the labels of each series of a name, with the rest of its line."""
    begins, at = name + b"{", -1
    while (at := page.find(begins, at + 1)) >= 0:
        if at and page[at - 1 : at] != b"\n":
            continue
        end = page.find(b"\n", at)
        end = len(page) if end < 0 else end
        if end - at > _LINE_MAX:
            continue
        labels, place = {}, at + len(begins)
        while (label := _LABEL.match(page, place, end)) is not None:
            labels[label[1]], place = label[2], label.end()
        yield labels, page[place:end]


def _pod(labels: Mapping[bytes, bytes], *, federated: bool) -> PodKey | None:
    """Return the pod that a GPU is assigned to; None: none, or it is not known."""
    if federated and any(label.startswith(_TWICE_RENAMED) for label in labels):
        return None
    renamed = (labels.get(b"exported_namespace"), labels.get(b"exported_pod")) if federated else (None, None)
    namespace, pod = renamed[0] or labels.get(b"namespace"), renamed[1] or labels.get(b"pod")
    return (namespace.decode(errors="replace"), pod.decode(errors="replace")) if namespace and pod else None


def _device(labels: Mapping[bytes, bytes]) -> Device:
    """Return what tells a GPU, a slice of it (MIG) or a share of it from others."""
    uuid = labels.get(b"UUID") or labels.get(b"uuid")
    where = (uuid,) if uuid else (labels.get(b"Hostname", b""), labels.get(b"gpu", b""))
    return (*where, labels.get(b"GPU_I_ID", b""), labels.get(b"vgpu", b""))


def _number(rest: bytes, factor: int, most: float, now: float) -> float:
    """Return the value at the end of a line; infinite: it cannot be right."""
    written = _VALUE.match(rest)
    if written is None:
        return inf
    if written[2] is not None and abs(now - int(written[2]) / 1000) > STALE_SECONDS:
        return inf
    try:
        value = float(written[1]) * factor
    except ValueError:
        return inf
    return value if 0 <= value <= most else inf


def _larger(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)
