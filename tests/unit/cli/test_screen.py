"""What a terminal shows, and what it does not obey."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from builders import EARLIER, RUN_UID, make_status, make_stop
from fakes import stored_run
from rich.console import Console

from trainingrun_operator.api.status import Condition, Effective, Phase, Progress
from trainingrun_operator.cli import live, words
from trainingrun_operator.cli.explain import Explanation
from trainingrun_operator.cli.rows import read
from trainingrun_operator.cli.screen import Column, Screen, table

LOOKED = Condition(type="Accepted", status="True", reason="Accepted", last_transition_time=EARLIER)
FINISHED = Condition(type="Finished", status="True", reason="AutoLowLoss", last_transition_time=EARLIER)
COLUMNS = (
    Column("NAME"),
    Column("PHASE"),
    Column("STEP", drop=2),
    Column("AGE", drop=3),
    Column("WHY", drop=1),
    Column("NOTE", drop=4),
)
ROWS = [["bert", "Running", "1200", "4m", "", ""], ["vit", "Held", "7", "3d", "auto_low_loss: Held", ""]]


def terminal(width=80, **more):
    return Screen(
        Console(
            file=io.StringIO(), force_terminal=True, width=width, highlight=False, markup=False, emoji=False, **more
        )
    )


def shown(screen):
    return screen.console.file.getvalue()


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        pytest.param(None, ["NAME", "PHASE", "STEP", "AGE", "WHY"], id="not a terminal"),
        pytest.param(80, ["NAME", "PHASE", "STEP", "AGE", "WHY"], id="wide enough"),
        pytest.param(43, ["NAME", "PHASE", "STEP", "WHY"], id="one has to go"),
        pytest.param(36, ["NAME", "PHASE", "WHY"], id="two have to go"),
        pytest.param(20, ["NAME", "PHASE"], id="only what may not go is left"),
    ],
)
def test_columns_that_do_not_fit_go_the_least_important_first(width, titles):
    lines = [line.plain for line in table(COLUMNS, ROWS, width)]
    assert lines[0].split() == titles, "A column in which nothing is said is never shown."
    assert width is None or max(map(len, lines)) <= width


def test_what_still_does_not_fit_is_cut_at_a_terminal_only():
    long = [["x" * 50, "Running", "", "", "", ""]]
    assert table(COLUMNS, long, 30)[1].plain == "x" * 29 + "…"
    assert table(COLUMNS, long, None)[1].plain.startswith("x" * 50)


def test_only_the_phase_has_a_colour():
    (_, _, held) = table(COLUMNS, ROWS, 80)
    coloured = [held.plain[span.start : span.end] for span in held.spans if "red" in str(span.style)]
    assert coloured == ["Held"]


def test_no_color_is_heeded(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    screen = terminal()
    screen.table(COLUMNS, ROWS)
    assert "31m" not in shown(screen)
    assert "Held" in shown(screen)


def test_text_of_others_is_not_obeyed():
    screen = terminal()
    screen.say("a\x1b]0;owned\x07 \x9b31m [red]b[/red] :boom: \u202etxt")
    for obeyed in ("\x1b]", "\x07", "\x9b", "\u202e"):
        assert obeyed not in shown(screen)
    assert "[red]b[/red] :boom:" in shown(screen)


def test_an_explanation_hangs_its_points_and_never_wraps_a_command():
    screen = terminal(40)
    command = "$ kubectl trainingrun stop a-very-long-name-of-a-run --namespace somewhere"
    screen.explanation(
        Explanation("It trains on.", ("One reason that is longer than a line of forty.",), ("To end it:", command))
    )
    lines = [
        line.rstrip()
        for line in shown(screen).replace("\x1b[1m", "").replace("\x1b[32m", "").replace("\x1b[0m", "").splitlines()
    ]
    assert lines == [
        "It trains on.",
        "- One reason that is longer than a line",
        "  of forty.",
        "To end it:",
        f"    {command}",
    ]


# -- live --------------------------------------------------------------------------------------------------------


def stored(step=10, loss="0.9", *, conditions=(LOOKED,), name="bert", uid=RUN_UID, **status):
    said = {
        "phase": "Running",
        "conditions": conditions,
        "effective": Effective(auto_stop_loss=0.5),
        "progress": Progress(loss=loss, step=step),
        **status,
    }
    return stored_run(name=name, uid=uid, status=make_status(**said).dump())


def curve(*losses):
    points = [{"at": EARLIER, "step": place, "loss": loss} for place, loss in enumerate(losses)]
    meta = {"name": "bert-curve", "namespace": "ml", "labels": {"trainingrun.dev/run-uid": RUN_UID}}
    return {"metadata": meta, "data": {"curve.json": json.dumps({"points": points})}}


def trend(seen):
    return next(line.plain.split()[-1] for line in seen.drawn(120, plain=False) if line.plain.startswith("bert"))


def test_a_trend_begins_with_what_was_kept_and_goes_on_with_what_is_seen():
    seen = live.KnownRuns(everywhere=False, one=False)
    seen.take_curves([curve(4.0, 2.0)])
    seen.take("ADDED", stored(10, "2"))
    assert trend(seen) == "█▁"
    seen.take("MODIFIED", stored(20, "4"))
    seen.take("MODIFIED", stored(20, "4"))
    assert trend(seen) == "█▁█", "The same reading twice is one point."


def test_another_run_of_the_same_name_has_a_trend_of_its_own():
    seen = live.KnownRuns(everywhere=False, one=False)
    seen.take_curves([curve(4.0, 2.0)])
    seen.take("ADDED", stored(10, "1", uid="another"))
    assert trend(seen) == "▁"


def test_a_deleted_run_is_not_shown_any_more():
    seen = live.KnownRuns(everywhere=True, one=False)
    seen.take("ADDED", stored())
    seen.take("ADDED", stored(name="vit", uid="other"))
    seen.take("DELETED", stored())
    names = [line.plain.split()[:2] for line in seen.drawn(120, plain=True)[1:]]
    assert names == [["ml", "vit"]]


def test_a_run_is_read_when_it_changes_and_not_whenever_it_is_drawn(monkeypatch):
    reads = []

    def reading(one):
        reads.append(one)
        return read(one)

    monkeypatch.setattr(live, "read", reading)
    seen = live.KnownRuns(everywhere=False, one=True)
    for step in (10, 20):
        seen.take("MODIFIED", stored(step, "2"))
        for _ in range(3):
            assert any(str(step) in line.plain for line in seen.drawn(120, plain=False))
    assert len(reads) == 2


def test_one_run_is_watched_with_its_explanation_until_it_has_ended():
    screen = terminal(100)
    over = stored(termination=make_stop(Phase.DONE), conditions=(LOOKED, FINISHED), phase="Succeeded")
    changes = iter([("ADDED", stored()), ("MODIFIED", over), ("MODIFIED", stored(99))])
    live.follow(changes, live.KnownRuns(everywhere=False, one=True), screen, one=True)
    assert "bert ended as auto_low_loss" in shown(screen)
    assert list(changes), "It did not wait for what comes after the end."


def test_a_run_that_this_version_cannot_read_is_still_watched():
    seen = live.KnownRuns(everywhere=False, one=True)
    seen.take("ADDED", stored_run(status={"phase": "Suspending", "termination": {"phase": "Suspending"}}))
    assert any("not readable by this version" in line.plain for line in seen.drawn(120, plain=True))


# -- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0s"),
        (0.9, "0s"),
        (59, "59s"),
        (60, "1m"),
        (200, "3m20s"),
        (3600, "1h"),
        (7500, "2h5m"),
        (86_400, "1d"),
        (90_000, "1d1h"),
        (604_800, "7d"),
        (700_000, "8d"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds, said):
    assert words.duration(seconds) == said


def test_a_time_that_is_none_is_not_told():
    assert words.ago("yesterday", datetime.now(UTC)) == ""
    assert words.age(None, datetime.now(UTC)) == ""
    assert words.age("2026-01-02T03:00:00", datetime(2026, 1, 2, 3, 0, 5, tzinfo=UTC)) == "5s", (
        "Without a zone it is UTC."
    )


@pytest.mark.parametrize(
    ("several", "said"), [([], "none"), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_a_list_of_words(several, said):
    assert words.listed(several) == said
