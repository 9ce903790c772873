"""What the plugin makes of the objects that are kept beside a run's commits, whatever is in them."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.cli import kept
from trainingrun_operator.cli.trouble import Exit, TroubleError

LAYOUT = Layout.of("s3://bucket/team", "ml", "llama", "1f0c")


@dataclass
class There:
    """The bucket of one run, with one document."""

    body: bytes | None = None
    ranks: tuple[int, ...] = ()
    place = SimpleNamespace(layout=LAYOUT)
    where = LAYOUT.uri(LAYOUT.base)

    def document(self, key: str, most_bytes: int) -> bytes | None:
        return self.body if self.body is None or len(self.body) <= most_bytes else b""

    def logs(self) -> tuple[int, ...]:
        return self.ranks


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        pytest.param(None, Exit.NO_SUCH_RUN, id="none"),
        pytest.param(b"", Exit.NOT_PROVEN, id="empty"),
        pytest.param(b"no JSON", Exit.NOT_PROVEN, id="no JSON"),
        pytest.param(b"\xff\xfe", Exit.NOT_PROVEN, id="no text"),
        pytest.param(b"[" * 100_000, Exit.NOT_PROVEN, id="deep"),
        pytest.param(b" " * (1 << 20) + b"{}", Exit.NOT_PROVEN, id="long"),
        pytest.param(b'{"points":[{"at":"2026-01-01T00:00:00Z","step":1,"loss":NaN}]}', Exit.NOT_PROVEN, id="NaN"),
        pytest.param(b'{"points":7}', Exit.NOT_PROVEN, id="no list"),
        pytest.param(b'{"points":[7]}', Exit.NOT_PROVEN, id="no points"),
        pytest.param(b'{"every":0}', Exit.NOT_PROVEN, id="another schema"),
        pytest.param(b"{}", Exit.NO_SUCH_RUN, id="without points"),
    ],
)
def test_a_curve_that_is_none_is_refused_in_words(body, wanted):
    with pytest.raises(TroubleError) as raised:
        kept.curve_of(There(body))  # type: ignore[arg-type]
    assert raised.value.exit_code is wanted
    assert "curve.json" in str(raised.value)
    assert len(str(raised.value)) < 300


def test_a_curve_is_read_with_fields_that_are_not_known_yet():
    body = b'{"every":2,"points":[{"at":"2026-01-01T00:00:00Z","step":1,"loss":0.5,"newer":1}],"newer":{}}'
    assert [point.loss for point in kept.curve_of(There(body)).points] == [0.5]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        pytest.param((0,), "The end of its log:", id="one rank"),
        pytest.param((0, 1), "The end of its log (that of rank 1 is log-1.txt.gz):", id="two"),
        pytest.param((0, 1, 2, 10), "The end of its log (3 other ranks have theirs, up to log-10.txt.gz):", id="several"),
        pytest.param((3,), "The end of the log of rank 3:", id="not that of rank 0"),
        pytest.param((3, 4), "The end of the log of rank 3 (that of rank 4 is log-4.txt.gz):", id="two others"),
    ],
)  # fmt: skip
def test_the_log_of_the_first_rank_is_shown_and_the_others_are_named(ranks, said):
    command = f"$ aws s3 cp s3://bucket/{LAYOUT.log(ranks[0])} - | gunzip"
    assert kept.logs_of(There(ranks=ranks)) == (said, command)  # type: ignore[arg-type]


def test_a_run_without_logs_has_none_to_show():
    assert kept.logs_of(There()) == ()  # type: ignore[arg-type]
