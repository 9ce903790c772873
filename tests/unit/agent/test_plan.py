"""What is shipped next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainingrun_operator.agent import plan
from trainingrun_operator.agent.cargo import Sent
from trainingrun_operator.agent.ledger import Request
from trainingrun_operator.agent.plan import Wish
from trainingrun_operator.agent.volume import detect, units
from trainingrun_operator.agent.volume.look import View
from trainingrun_operator.agent.volume.scan import Entry, Scan
from trainingrun_operator.api.spoiled import Spoiled
from trainingrun_operator.checkpoints.documents import Checkpoint, RankManifest

EARLIER = RankManifest(rank=0, incarnation=1, key="earlier", sha256="1")
REF = RankManifest(rank=0, incarnation=1, key="manifest", sha256="0")
SAVE = Wish("save", ended=False, request=Request("t1", 1))
FINAL = Wish("save", ended=True, request=Request("t1", 1))
AFRESH = Wish("save", ended=True, request=Request("t1", 2), afresh=True)


class Bucket:
    """Covers some paths; holds one manifest about some directory."""

    def __init__(self, *paths: str, about: str = "", before: Checkpoint | None = None) -> None:
        self.paths = paths
        self.about = about
        self.before = before

    def earlier(self, path, entry):
        return Sent(entry.size, entry.mtime_ns, path, "crc") if path in self.paths else None

    def covers(self, unit):
        return all(path in self.paths for path in unit.files)

    def manifest_of(self, unit, *, complete):
        return REF if complete and unit.dir == self.about else None

    def finite(self, spoiled):
        return None if self.before is None else (EARLIER, self.before)


def view(
    *complete: int,
    half: tuple[int, ...] = (),
    rest: tuple[str, ...] = (),
    temporary: tuple[str, ...] = (),
    unread: tuple[str, str] | None = None,
    error: str = "",
    pointers: tuple[str, ...] = (),
) -> View:
    seen = []
    for step in sorted((*complete, *half)):
        files = {f"step_{step}/w": Entry(1, step, step, 0o644)}
        unit = units.Unit(f"step_{step}", f"step_{step}", files, units.Number(-1, step))
        seen.append(detect.Seen(unit, detect.Verdict(step in complete, "so it is")))
    others = {path: Entry(1, 1, 1, 0o644) for path in rest}
    entries = others | {path: entry for one in seen for path, entry in one.unit.files.items()}
    beside = units.Unit(".", ".", others) if others else None
    unfinished = {path: Entry(1, 1, 1, 0o644) for path in temporary}
    return View(
        Scan(entries, unfinished, error=error, unread=unread),
        tuple(seen),
        beside,
        texts=dict.fromkeys(pointers, "step_1"),
    )


@pytest.mark.parametrize(
    ("volume", "bucket", "wish", "steps"),
    [
        (view(1, 2, 3), Bucket(), Wish(), ["step_3"]),
        (view(1, 2, rest=("latest",)), Bucket(), Wish(), ["latest", "step_2"]),
        (view(1, 2), Bucket("step_2/w"), Wish(), None),
        (view(half=(1,)), Bucket(), Wish(), None),
        (view(half=(1,)), Bucket(), SAVE, None),
        (view(1, half=(2,)), Bucket(), SAVE, ["step_1"]),
        (view(1), Bucket("step_1/w", about="step_1"), SAVE, "again"),
        (view(1, 2, 3), Bucket("step_1/w"), FINAL, ["step_2", "step_3"]),
        (view(1, half=(2,), rest=("a",)), Bucket(), FINAL, ["a", "step_1", "step_2"]),
        (view(half=(2,)), Bucket(), FINAL, ["step_2"]),
        (view(), Bucket(), FINAL, []),
        (view(1, rest=("a",)), Bucket("step_1/w", "a", about="step_1"), FINAL, "again"),
        (view(1, rest=("a",)), Bucket("step_1/w", about="step_1"), FINAL, ["a", "step_1"]),
        (
            view(1, rest=("latest",), pointers=("latest",)),
            Bucket("step_1/w", about="step_1"),
            Wish(),
            ["latest", "step_1"],
        ),
        (view(1, rest=("latest",), pointers=("latest",)), Bucket("step_1/w", "latest", about="step_1"), Wish(), None),
        (view(1, rest=("notes",)), Bucket("step_1/w", about="step_1"), Wish(), None),
        (view(1, 2), Bucket("step_1/w", "step_2/w", about="step_2"), AFRESH, ["step_1", "step_2"]),
        (view(1, temporary=("tmp-x/w",)), Bucket(), Wish(), ["step_1"]),
        (view(temporary=("tmp-x/w",)), Bucket(), Wish(), None),
        (view(temporary=("tmp-x/w",)), Bucket(), SAVE, None),
        (view(1, temporary=("tmp-x/w", "a.tmp")), Bucket(), FINAL, ["a.tmp", "step_1", "tmp-x"]),
        (view(temporary=("tmp-x/w",)), Bucket(), FINAL, ["tmp-x"]),
        (view(temporary=("tmp-x/w",)), Bucket("tmp-x/w"), FINAL, ["tmp-x"]),
        (view(1, temporary=("tmp-x/w",)), Bucket("step_1/w", "tmp-x/w", about="step_1"), FINAL, "again"),
        (view(1, temporary=("tmp-x/w",)), Bucket("step_1/w", about="step_1"), FINAL, ["step_1", "tmp-x"]),
        (view(1, unread=("tmp-x", "Permission denied")), Bucket("step_1/w", about="step_1"), FINAL, ["step_1"]),
        (view(1, error="/checkpoints/x: Permission denied"), Bucket(), FINAL, None),
    ],
    ids=[
        "while training only the newest is shipped",
        "with the small files beside it",
        "and only if no commit has it",
        "an unfinished one is not shipped",
        "also not when a save is asked for",
        "a save ships the complete one",
        "a save names again what is there",
        "the end ships what no commit has",
        "and the half-written one and the rest",
        "also if there is nothing else",
        "and says so if there is nothing",
        "and names again what is there, if that is all",
        "but stands whole if anything is new",
        "a pointer file that has changed is shipped again with its checkpoint",
        "but only once",
        "other small files are no reason for another generation",
        "a new attempt ships everything afresh",
        "temporary names are not shipped while it trains",
        "also if there is nothing else",
        "also not when a save is asked for",
        "the end ships them, too",
        "also if there is nothing else then",
        "and names them again, if there is nothing else",
        "or the manifest that has the checkpoint",
        "and ships them if no commit has them",
        "what cannot be listed is not in an earlier manifest",
        "what cannot be read is not committed around",
    ],
)
def test_the_next_job(volume, bucket, wish, steps):
    job = plan.next_job(volume, bucket, wish, since_ns=0)
    if steps is None:
        assert job is None
    elif steps == "again":
        assert job
        assert (job.again, job.files) == (REF, ())
    else:
        assert job
        assert sorted(one.path.partition("/")[0] for one in job.files) == steps
        assert all(one.earlier is None for one in job.files) or not wish.afresh


def test_the_checkpoint_is_the_last_complete_one_and_says_what_lies_beside_it():
    job = plan.next_job(view(1, half=(2,)), Bucket(), FINAL, since_ns=0)
    assert job
    assert job.checkpoint
    assert (job.checkpoint.dir, job.checkpoint.complete) == ("step_1", True)
    assert "the newer step_2 is incomplete" in job.checkpoint.evidence


def test_without_a_complete_one_the_half_written_is_marked_so():
    job = plan.next_job(view(half=(2,)), Bucket(), FINAL, since_ns=0)
    assert job
    assert job.checkpoint
    assert (job.checkpoint.step, job.checkpoint.complete) == (2, False)


def test_a_checkpoint_of_a_later_stage_is_shipped_though_its_step_is_lower():
    stages = (view(1000), view(50))
    first, second = (one.seen[0] for one in stages)
    files = {f"{second.unit.dir}/w": Entry(1, 2000, 50, 0o644)}
    second = detect.Seen(units.Unit(second.unit.name, second.unit.dir, files, second.unit.number), second.verdict)
    volume = View(Scan({**stages[0].scan.entries, **files}), (second, first))
    job = plan.next_job(volume, Bucket("step_1000/w"), Wish(), since_ns=0)
    assert job
    assert job.checkpoint
    assert (job.checkpoint.step, [one.path for one in job.files]) == (50, ["step_50/w"])
    assert plan.next_job(volume, Bucket("step_1000/w", "step_50/w"), Wish(), since_ns=0) is None


def test_a_checkpoint_of_an_earlier_run_is_marked_so():
    for newest_left, inherited in ((0, False), (1, False), (2, True), (3, True)):
        job = plan.next_job(view(2), Bucket(), Wish(inherited_ns=newest_left), since_ns=0)
        assert job
        assert job.checkpoint
        assert job.checkpoint.inherited is inherited


def test_temporary_names_alone_are_an_unfinished_checkpoint():
    job = plan.next_job(view(temporary=("tmp-x/w", "tmp-x/v", "a.tmp")), Bucket(), FINAL, since_ns=0)
    assert job
    assert job.checkpoint
    assert (job.checkpoint.dir, job.checkpoint.complete, job.checkpoint.step) == (".", False, None)
    assert job.checkpoint.evidence == "3 files under temporary names (a.tmp, tmp-x) were left unfinished"


def test_temporary_names_beside_a_checkpoint_are_named_and_change_nothing_else():
    alone = plan.next_job(view(1), Bucket(), FINAL, since_ns=0)
    beside = plan.next_job(view(1, temporary=("tmp-x/w",)), Bucket(), FINAL, since_ns=0)
    assert alone
    assert beside
    assert alone.checkpoint
    assert beside.checkpoint
    assert beside.checkpoint.identity == alone.checkpoint.identity
    assert beside.checkpoint.evidence.endswith("; 1 files under temporary names (tmp-x) were left unfinished")


def test_what_cannot_be_listed_is_recorded_as_skipped():
    job = plan.next_job(view(1, unread=("tmp-x", "Permission denied")), Bucket(), FINAL, since_ns=0)
    assert job
    assert [(one.path, one.reason, one.regular) for one in job.skipped] == [("tmp-x", "Permission denied", True)]


@pytest.mark.parametrize("name", ["train.log", "lightning_logs/version_0/hparams.yaml", "curve.png"])
def test_logs_settings_and_pictures_alone_are_shipped_but_are_no_checkpoint(name):
    unit = units.Unit(".", ".", {name: Entry(1, 1, 1, 0o644)})
    volume = View(Scan(unit.files), (detect.Seen(unit, detect.Verdict(complete=True, evidence="")),))
    job = plan.next_job(volume, Bucket(), FINAL, since_ns=0)
    assert job
    assert job.checkpoint is None
    assert [one.path for one in job.files] == [name]
    assert plan.next_job(volume, Bucket(), Wish(), since_ns=0) is None


# -- beside a checkpoint ------------------------------------------------------------------------------------------


def job_of(volume, bucket, wish, since_ns) -> plan.Job:
    job = plan.next_job(volume, bucket, wish, since_ns)
    assert job is not None
    return job


def pointing(volume: View, **texts: str) -> View:
    return replace(volume, texts=texts)


@pytest.mark.parametrize(
    ("volume", "bucket", "files"),
    [
        pytest.param(
            pointing(view(1, 2, rest=("latest",)), latest="step_2"),
            Bucket("step_2/w", about="step_2"),
            ["latest", "step_2/w"],
            id="it has moved to the newest",
        ),
        pytest.param(
            pointing(view(1, 2, rest=("latest",)), latest="step_2"),
            Bucket("step_2/w", "latest"),
            None,
            id="it has not moved",
        ),
        pytest.param(
            pointing(view(1, 2, rest=("latest",)), latest="step_1"), Bucket("step_2/w"), None, id="it names another one"
        ),
        pytest.param(
            pointing(view(1, 2, half=(3,), rest=("latest",)), latest="step_3"),
            Bucket("step_2/w"),
            None,
            id="it names one that is not complete",
        ),
        pytest.param(pointing(view(1, 2), latest="step_2"), Bucket("step_2/w"), None, id="it is gone"),
    ],
)
def test_a_pointer_brings_a_generation_of_its_own_only_when_it_moves_to_the_newest(volume, bucket, files):
    job = plan.next_job(volume, bucket, Wish(), 0)
    assert (None if job is None else sorted(one.path for one in job.files)) == files
    if job:
        assert job.again is None, "The earlier manifest has the pointer's earlier content."
        assert [one.path for one in job.files if one.earlier] == ["step_2/w"], "The checkpoint is not sent again."


def test_small_files_beside_a_checkpoint_that_the_bucket_has_are_not_sent_again():
    volume = view(1, rest=("config.json", "new.json"))
    job = job_of(volume, Bucket("config.json"), Wish(), 0)
    assert {one.path: bool(one.earlier) for one in job.files if one.optional} == {
        "config.json": True,
        "new.json": False,
    }
    afresh = job_of(volume, Bucket("config.json"), SAVE._replace(afresh=True), 0)
    assert not any(one.earlier for one in afresh.files)


def test_what_is_not_the_trainings_is_named_in_the_last_manifest_and_holds_nothing():
    volume = view(1)
    volume = replace(volume, scan=replace(volume.scan, left_out={"lost+found": "a folder of the file system"}))
    job = job_of(volume, Bucket(), FINAL, 0)
    assert [(one.path, one.regular) for one in job.skipped] == [("lost+found", False)]
    again = job_of(volume, Bucket("step_1/w", about="step_1"), FINAL, 0)
    assert again.again == REF, "It is no reason for another manifest."


def test_a_folder_that_cannot_be_read_keeps_no_other_checkpoint_from_being_shipped():
    volume = view(1, unread=("private", "Permission denied"))
    assert [one.path for one in job_of(volume, Bucket(), Wish(), 0).files] == ["step_1/w"]
    (skipped,) = job_of(volume, Bucket(), FINAL, 0).skipped
    assert (skipped.path, skipped.regular) == ("private", True)


def test_a_job_says_that_its_checkpoint_is_whole_only_now():
    volume = replace(view(1, 2), moments=frozenset({"step_2"}))
    assert job_of(volume, Bucket(), Wish(), 0).moment
    assert not job_of(replace(volume, moments=frozenset({"step_1"})), Bucket(), Wish(), 0).moment


# -- a training whose values are no longer finite --------------------------------------------------------------------

SPOILED = Spoiled(step=3)
"""The first value that is not finite is of step 3."""
NAN = SAVE._replace(status="auto_non_finite", spoiled=SPOILED)
ENDED = FINAL._replace(status="auto_non_finite", spoiled=SPOILED)
TERMINATED = ENDED._replace(reason="sigterm")


def of_bucket(step):
    """A complete checkpoint from before, which an earlier commit has."""
    return Checkpoint(dir=f"step_{step}", step=step, complete=True, evidence="so it was")


def shipped(job):
    """What a job ships, what it is about, and whether that is said to be from before the first value that is not finite."""
    if job is None:
        return None
    what = job.again.key if job.again else sorted({wanted.path.split("/")[0] for wanted in job.files})
    return what, job.checkpoint.dir, job.checkpoint.finite, job.wish.request.id


@pytest.mark.parametrize(
    ("volume", "bucket", "wish", "expected"),
    [
        pytest.param(view(1, 2, 3, 4), Bucket(), NAN, (["step_2"], "step_2", True, "t1"), id="the newest from before it, though later ones are there"),
        pytest.param(view(1, 2, 3, 4), Bucket("step_4/w"), NAN, (["step_2"], "step_2", True, "t1"), id="also if the bucket has a later one"),
        pytest.param(view(1, 2, 3), Bucket("step_2/w", about="step_2"), NAN, ("manifest", "step_2", True, "t1"), id="it is named again if the bucket has it"),
        pytest.param(view(3, 4), Bucket(before=of_bucket(2)), NAN, ("earlier", "step_2", True, "t1"), id="only the bucket has it: the training has removed it"),
        pytest.param(view(1, 4), Bucket(before=of_bucket(2)), NAN, ("earlier", "step_2", True, "t1"), id="the bucket has a later one than the volume"),
        pytest.param(view(2, 4), Bucket(before=of_bucket(1)), NAN, (["step_2"], "step_2", True, "t1"), id="the volume has a later one than the bucket"),
        pytest.param(view(4, half=(2,)), Bucket(), NAN, (["step_4"], "step_4", False, "t1"), id="one that is not whole is none"),
        pytest.param(view(3, 4), Bucket(), NAN, (["step_4"], "step_4", False, "t1"), id="none is from before it: the newest, and it says so"),
        pytest.param(view(), Bucket(), NAN, None, id="an empty volume"),
        pytest.param(view(1, 2, 4), Bucket(), ENDED, (["step_1", "step_4"], "step_4", False, None), id="at the end, the others go first, in answer to nothing"),
        pytest.param(view(1, 2, 4), Bucket("step_1/w", "step_4/w"), ENDED, (["step_2"], "step_2", True, "t1"), id="and then it alone: no restore brings a later one back"),
        pytest.param(view(1, 2, 4, rest=("config",)), Bucket(), NAN, (["config", "step_2"], "step_2", True, "t1"), id="with the small files beside it"),
        pytest.param(view(1, 2, 4, rest=("config", "latest"), pointers=("latest",)), Bucket(), NAN, (["config", "step_2"], "step_2", True, "t1"), id="but no pointer to another one"),
        pytest.param(view(1, 4, rest=("latest",), pointers=("latest",)), Bucket(), NAN, (["latest", "step_1"], "step_1", True, "t1"), id="a pointer to it is one"),
        pytest.param(view(1, 2, rest=("log",)), Bucket("step_1/w"), ENDED, (["log"], ".", None, None), id="only other files are missing"),
        pytest.param(view(1, 2, temporary=("tmp-x/w",)), Bucket("step_1/w", "step_2/w", about="step_2"), TERMINATED, (["tmp-x"], ".", None, None), id="only files under temporary names are missing"),
        pytest.param(view(2, 4), Bucket("step_2/w", "step_4/w", about="step_2"), TERMINATED, ("manifest", "step_2", True, "t1"), id="the last commit names it again"),
        pytest.param(view(4), Bucket(before=of_bucket(2)), TERMINATED, (["step_4"], "step_4", False, None), id="what only the volume has is saved before the pod ends"),
        pytest.param(view(4), Bucket("step_4/w", before=of_bucket(2)), TERMINATED, ("earlier", "step_2", True, "t1"), id="and then the last finite one is named"),
        pytest.param(view(3, 4), Bucket(), ENDED, (["step_3", "step_4"], "step_4", False, "t1"), id="at the end, none is from before it"),
        pytest.param(view(1, 2, 4), Bucket("step_2/w", about="step_2", before=of_bucket(2)), NAN._replace(afresh=True), (["step_2"], "step_2", True, "t1"), id="what did not verify is sent afresh"),
        pytest.param(view(4), Bucket(before=of_bucket(2)), NAN._replace(afresh=True), (["step_4"], "step_4", False, "t1"), id="what did not verify and is gone from the volume is given up"),
        pytest.param(view(1, 4), Bucket(), NAN._replace(spoiled=Spoiled()), (["step_4"], "step_4", False, "t1"), id="nothing is known of the moment"),
    ],
)  # fmt: skip
def test_the_newest_checkpoint_from_before_is_published(volume, bucket, wish, expected):
    assert shipped(plan.next_job(volume, bucket, wish, since_ns=0)) == expected


def test_the_published_checkpoint_says_from_before_what_it_is():
    job = plan.next_job(view(1, 2, 4), Bucket(), NAN, since_ns=0)
    assert job is not None
    assert job.checkpoint is not None
    assert job.checkpoint.evidence == "so it is; the newest from before step 3, the first one that is not finite"
    none = plan.next_job(view(4), Bucket(), NAN._replace(spoiled=Spoiled()), since_ns=0)
    assert none is not None
    assert none.checkpoint is not None
    assert none.checkpoint.evidence == "so it is; none is known to be from before the first value that is not finite"
