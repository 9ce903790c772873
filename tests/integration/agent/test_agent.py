"""The agent against a real S3 server, as a real process."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import s3server
from integration.agent.checkpoints import MIB, hf_checkpoint, safetensors
from integration.agent.pods import BUCKET, Store, wait_for
from integration.agent.proxy import Do, Request

from trainingrun_operator.api.exchange import SaveRequest, StopRequest
from trainingrun_operator.checkpoints.pace import SMALL_THREADS

pytestmark = pytest.mark.s3


def committed(store: Store, count: int = 1, seconds: float = 120):
    return wait_for(lambda: found if len(found := store.commits()) >= count else None, seconds)


def test_a_complete_checkpoint_is_committed_while_the_training_runs(make_pod, store):
    pod = make_pod().start()
    files = hf_checkpoint(pod.volume, 100)
    (commit,) = committed(store)
    assert commit.reason == "checkpoint"
    assert not commit.final
    assert commit.checkpoint.dir == "checkpoint-100"
    assert commit.checkpoint.step == 100
    assert commit.checkpoint.complete
    assert store.content(commit) == files
    report = pod.reports(lambda report: report.commit and report.unsaved_bytes == 0)
    assert report.incarnation == 1
    assert report.newest.step == 100
    assert report.files == 4


def test_what_was_uploaded_and_what_failed_is_reported(make_pod, store, proxy):
    proxy.rule = lambda _: Do.REFUSE
    pod = make_pod(endpoint=proxy.url).start()
    first = hf_checkpoint(pod.volume, 100)
    failing = pod.reports(lambda report: report.upload_failures > 1)
    assert failing.uploads == ()
    proxy.rule = lambda _: Do.PASS
    once = pod.reports(lambda report: report.uploads)
    second = hf_checkpoint(pod.volume, 200)
    twice = pod.reports(lambda report: len(report.uploads) > 1)
    assert [(one.incarnation, one.generation) for one in twice.uploads] == [(1, 1), (1, 2)]
    assert [one.bytes for one in twice.uploads] == [sum(map(len, files.values())) for files in (first, second)]
    assert all(one.seconds > 0 for one in twice.uploads)
    assert once.upload_failures == twice.upload_failures >= failing.upload_failures


def test_a_killed_agent_resumes_the_parts_that_the_bucket_holds(make_pod, store, proxy):
    proxy.delay = lambda request: 0.2 * int(request.query.split("partNumber=")[1]) if request.is_part else 0.0
    pod = make_pod(endpoint=proxy.url)
    files = hf_checkpoint(pod.volume, 100, 9 * 16 * MIB)
    pod.start()
    wait_for(lambda: proxy.count(lambda request: request.is_part) >= 4)
    pod.kill()
    pod.start()
    (commit,) = committed(store)
    assert commit.order == (1, 1)
    assert store.content(commit) == files
    kept = int(pod.log.read_text().split(" kept (")[1].split(" ")[0])
    assert kept >= 4


@pytest.mark.parametrize(
    ("size", "lost"),
    [
        (1000, lambda request: request.path.endswith("model.safetensors")),
        (20 * MIB, lambda request: request.is_completion),
        (1000, lambda request: request.path.endswith(".manifest.json")),
        (1000, lambda request: "/commits/" in request.path),
        (1000, lambda request: "/incarnations/" in request.path),
    ],
    ids=["of a small file", "of a completion", "of the manifest", "of the commit", "of the claim"],
)
def test_a_lost_answer_is_a_success(make_pod, store, proxy, size, lost):
    losses: list[Request] = []

    def rule(request: Request) -> Do:
        if request.method in {"PUT", "POST"} and lost(request) and not losses:
            losses.append(request)
            return Do.LOSE_ANSWER
        return Do.PASS

    proxy.rule = rule
    pod = make_pod(endpoint=proxy.url)
    files = hf_checkpoint(pod.volume, 100, size)
    pod.start()
    (commit,) = committed(store)
    assert losses
    assert store.content(commit) == files
    pod.reports(lambda report: report.commit and report.error is None)
    assert [one.order for one in store.commits()] == [commit.order]


def test_another_object_at_a_key_is_never_overwritten(make_pod, store):
    pod = make_pod()
    files = hf_checkpoint(pod.volume, 100, 20 * MIB)
    folder = f"{store.layout.base}r0/i1-g0001-llm-0/checkpoint-100/"
    others = {folder + "model.safetensors": b"another", folder + "optimizer.pt": b"yet another"}
    for key, body in others.items():
        store.s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    pod.start()
    (commit,) = committed(store)
    assert commit.generation == 2
    assert {key: store.read(key) for key in others} == others
    assert store.content(commit) == files


def test_of_two_agents_the_older_is_fenced_and_commits_nothing_more(make_pod, store):
    old = make_pod("old", folder="node-1").start()
    hf_checkpoint(old.volume, 100)
    committed(store)
    new = make_pod("new", folder="node-2").start()
    new.reports(lambda report: report.incarnation == 2)
    old.reports(lambda report: report.error and report.error.code == "Fenced")
    hf_checkpoint(old.volume, 200)
    hf_checkpoint(new.volume, 150)
    committed(store, 2)
    old.signal(signal.SIGTERM)
    assert old.wait() == 1
    assert [(commit.incarnation, commit.checkpoint.step) for commit in store.commits()] == [(1, 100), (2, 150)]


def test_documents_of_another_run_below_ones_own_fence_and_count_for_nothing(make_pod, store):
    """A folder of another run in the places where this one keeps its claims and its commits."""
    foreign = "vision/resnet/6f2a1c9e-0000-4000-8000-00000000000b/"
    for key in (
        f"{store.layout.claims(0)}{foreign}r0/incarnations/7.json",
        f"{store.layout.commits}{foreign}commits/i9-g0009.json",
    ):
        store.s3.put_object(Bucket=BUCKET, Key=key, Body=b"{}")
    pod = make_pod().start()
    hf_checkpoint(pod.volume, 100)
    report = pod.reports(lambda report: report.commit)
    assert (report.incarnation, report.commit.generation, report.error) == (1, 1, None)
    hf_checkpoint(pod.volume, 200)
    pod.reports(lambda report: report.commit and report.commit.generation == 2)


def test_a_save_request_outlasts_a_store_that_is_away(make_pod, store, proxy):
    proxy.rule = lambda _: Do.REFUSE
    pod = make_pod(endpoint=proxy.url)
    files = hf_checkpoint(pod.volume, 100)
    pod.start()
    pod.annotate(save=SaveRequest(id="t1", ended=True))
    report = pod.reports(lambda report: report.error)
    assert report.error.code == "Unreachable"
    assert report.working_on == "t1"
    proxy.rule = lambda _: Do.PASS
    (commit,) = committed(store)
    assert (commit.termination_id, commit.attempt, commit.final, commit.reason) == ("t1", 1, True, "save")
    assert store.content(commit) == files
    report = pod.reports(lambda report: report.error is None and report.working_on is None)
    assert report.commit.id == "t1"


def test_a_file_that_changes_while_it_is_read_is_committed_as_it_is_afterwards(make_pod, store, proxy):
    pod = make_pod(endpoint=proxy.url)
    hf_checkpoint(pod.volume, 100, 32 * MIB)
    changed: list[Request] = []

    def rule(request: Request) -> Do:
        if request.is_part and not changed:
            changed.append(request)
            content = safetensors(32 * MIB)
            (pod.volume / "checkpoint-100/model.safetensors").write_bytes(content)
        return Do.PASS

    proxy.rule = rule
    pod.start()
    committed(store)
    assert changed
    for commit in store.commits():
        on_disk = {str(path.relative_to(pod.volume)): path.read_bytes() for path in pod.volume.glob("*/*")}
        assert store.content(commit) == on_disk


def test_a_half_written_checkpoint_is_shipped_as_partial_only_when_nothing_else_will_come(make_pod, store):
    pod = make_pod().start()
    half = safetensors()[:-1]
    (pod.volume / "step_200").mkdir()
    (pod.volume / "step_200/model.safetensors").write_bytes(half)
    pod.annotate(save=SaveRequest(id="t1", ended=False))
    report = pod.reports(lambda report: report.unfinished and report.working_on)
    assert (report.newest, report.unfinished.dir, report.working_on) == (None, "step_200", "t1")
    time.sleep(1.5)
    assert not store.commits()
    pod.annotate(save=SaveRequest(id="t1", attempt=2, ended=True))
    (commit,) = committed(store)
    assert commit.final
    assert not commit.checkpoint.complete
    assert "bytes" in commit.checkpoint.evidence
    assert store.content(commit) == {"step_200/model.safetensors": half}


def test_a_half_written_checkpoint_travels_beside_the_last_complete_one(make_pod, store):
    pod = make_pod().start()
    files = hf_checkpoint(pod.volume, 100)
    committed(store)
    half = safetensors()[:-1]
    (pod.volume / "checkpoint-200").mkdir()
    (pod.volume / "checkpoint-200/model.safetensors").write_bytes(half)
    pod.annotate(save=SaveRequest(id="t1", ended=True))
    _, final = committed(store, 2)
    assert (final.checkpoint.dir, final.checkpoint.complete, final.final) == ("checkpoint-100", True, True)
    assert "the newer checkpoint-200 is incomplete" in final.checkpoint.evidence
    assert store.content(final) == files | {"checkpoint-200/model.safetensors": half}


def test_an_empty_volume_is_committed_as_empty_when_the_training_has_ended(make_pod, store):
    pod = make_pod().start()
    pod.annotate(save=SaveRequest(id="t1", ended=False))
    pod.reports(lambda report: report.working_on == "t1")
    pod.annotate(save=SaveRequest(id="t1", ended=True, status="failed"))
    (commit,) = committed(store)
    assert (commit.checkpoint, commit.total_files, commit.final) == (None, 0, True)
    assert commit.status == "failed", "Why the run ended is kept where a restored cluster can read it."
    assert store.manifest(commit).files == ()


def test_a_save_while_training_waits_for_the_first_complete_checkpoint(make_pod, store):
    pod = make_pod().start()
    pod.annotate(save=SaveRequest(id="t1", ended=False))
    pod.reports(lambda report: report.incarnation)
    assert not store.commits()
    hf_checkpoint(pod.volume, 100)
    (commit,) = committed(store)
    assert (commit.termination_id, commit.final, commit.checkpoint.step) == ("t1", False, 100)


def test_a_request_answered_while_training_is_answered_again_when_it_has_ended(make_pod, store):
    pod = make_pod().start()
    hf_checkpoint(pod.volume, 100)
    pod.annotate(save=SaveRequest(id="t1", ended=False))
    committed(store)
    (pod.volume / "late.dat").write_text("x")
    pod.annotate(save=SaveRequest(id="t1", ended=True))
    wait_for(lambda: store.commits()[-1].final)
    assert "late.dat" in store.content(store.commits()[-1])


def test_a_log_that_grows_brings_no_new_generation(make_pod, store):
    pod = make_pod()
    (pod.volume / "weights.dat").write_bytes(os.urandom(100))
    pod.start()
    with (pod.volume / "train.log").open("w") as log:
        committed(store)
        for _ in range(20):
            log.write("step\n")
            log.flush()
            time.sleep(0.1)
    assert len(store.commits()) == 1


def test_a_request_is_answered_once_also_by_a_restarted_agent(make_pod, store):
    pod = make_pod().start()
    hf_checkpoint(pod.volume, 100)
    pod.annotate(save=SaveRequest(id="t1", ended=True))
    committed(store)
    pod.kill()
    pod.start()
    report = pod.reports(lambda report: report.commit and report.working_on is None)
    assert (report.commit.id, report.incarnation, report.unsaved_bytes) == ("t1", 1, 0)
    time.sleep(0.5)
    assert len(store.commits()) == 1


def test_a_new_attempt_uploads_everything_afresh_and_an_old_one_names_what_is_there(make_pod, store):
    pod = make_pod().start()
    files = hf_checkpoint(pod.volume, 100)
    committed(store)
    pod.annotate(save=SaveRequest(id="t1", ended=True))
    first, again = committed(store, 2)
    assert again.ranks == first.ranks
    assert (again.final, again.total_files) == (True, 4)
    pod.annotate(save=SaveRequest(id="t1", attempt=2, ended=True))
    *_, afresh = committed(store, 3)
    assert afresh.attempt == 2
    assert not {file.key for file in store.manifest(afresh).files} & {file.key for file in store.manifest(first).files}
    assert store.content(afresh) == files


def test_a_final_commit_brings_what_was_skipped_and_the_rest(make_pod, store):
    pod = make_pod()
    files = hf_checkpoint(pod.volume, 100) | hf_checkpoint(pod.volume, 200) | hf_checkpoint(pod.volume, 300)
    (pod.volume / "large.dat").write_bytes(os.urandom(2 * MIB))
    (pod.volume / "config.json").write_text("{}")
    (pod.volume / "STOP_TRAINING").write_text("")
    (pod.volume / "done").write_text("")
    pod.options["marker_files"] = ("done",)
    pod.start()
    (first,) = committed(store)
    assert first.checkpoint.step == 300
    assert set(store.content(first)) == {path for path in files if "-300/" in path} | {"config.json"}
    pod.annotate(save=SaveRequest(id="t1", ended=True))
    _, final = committed(store, 2)
    rest = {"large.dat": (pod.volume / "large.dat").read_bytes(), "config.json": b"{}"}
    assert store.content(final) == files | rest


@pytest.mark.parametrize(
    ("files", "earlier"), [(1, [100]), (SMALL_THREADS + 40, [])], ids=["all on its way", "some not begun"]
)
def test_sigterm_ends_in_a_final_commit(make_pod, store, proxy, files, earlier):
    begun, heard = threading.Event(), threading.Event()

    def held_until_heard(request: Request) -> Do:
        if request.method == "PUT" and "/shard-" in request.path:
            begun.set()
            assert heard.wait(60)
        return Do.PASS

    proxy.rule = held_until_heard
    pod = make_pod(endpoint=proxy.url)
    written = hf_checkpoint(pod.volume, 100)
    for number in range(files):
        written[path := f"checkpoint-100/shard-{number:03d}"] = content = os.urandom(100)
        (pod.volume / path).write_bytes(content)
    pod.annotate(stop=StopRequest(id="t7"))
    pod.start()
    assert begun.wait(60)
    second = hf_checkpoint(pod.volume, 200)
    pod.signal(signal.SIGTERM)
    pod.signal(signal.SIGTERM)
    wait_for(lambda: "being terminated" in pod.log.read_text())
    heard.set()
    assert pod.wait() == 0
    *before, last = store.commits()
    assert [(commit.checkpoint.step, commit.final) for commit in before] == [(step, False) for step in earlier]
    assert (last.reason, last.final, last.termination_id) == ("sigterm", True, "t7")
    assert last.checkpoint.step == 200
    assert store.content(last).items() >= second.items()
    saved = {path: content for commit in (*before, last) for path, content in store.content(commit).items()}
    assert saved == written | second


def test_sigterm_after_the_last_word_adds_nothing(make_pod, store):
    pod = make_pod().start()
    hf_checkpoint(pod.volume, 100)
    pod.annotate(save=SaveRequest(id="t1", ended=True))
    committed(store)
    pod.reports(lambda report: report.working_on is None)
    pod.signal(signal.SIGTERM)
    assert pod.wait() == 0
    assert len(store.commits()) == 1


def test_a_released_agent_stays_until_the_kubelet_ends_it_and_then_leaves_although_the_store_is_away(make_pod, proxy):
    proxy.rule = lambda _: Do.REFUSE
    pod = make_pod(endpoint=proxy.url).start()
    pod.reports(lambda report: report.error)
    pod.annotate(released="true")
    time.sleep(0.5)
    assert pod.report(), "a sidecar that leaves before the gate would be started again"
    pod.signal(signal.SIGTERM)
    assert pod.wait(3) == 0


def test_a_stop_reaches_the_training_within_a_second_and_is_not_taken_for_a_persons(make_pod):
    pod = make_pod().start()
    pod.reports(lambda report: True)
    asked = time.monotonic()
    pod.annotate(stop=StopRequest(id="t1"))
    text = wait_for(lambda: (pod.volume / "STOP_TRAINING").exists() and (pod.volume / "STOP_TRAINING").read_text())
    assert time.monotonic() - asked < 1
    assert "t1" in text
    assert (pod.control / "STOP_TRAINING").read_text() == text
    time.sleep(0.5)
    report = pod.report()
    assert not report.foreign_stop_file
    assert report.files == 0


def test_a_persons_stop_file_and_a_marker_are_reported(make_pod):
    pod = make_pod(marker_files=("done",)).start()
    pod.reports(lambda report: True)
    (pod.volume / "STOP_TRAINING").write_text("")
    (pod.volume / "done").write_text("")
    report = pod.reports(lambda report: report.foreign_stop_file and report.markers)
    assert report.markers[0].name == "done"
    assert report.markers[0].age_seconds < 5


def test_what_an_earlier_pod_left_is_no_news(make_pod):
    first = make_pod("first").start()
    first.reports(lambda report: True)
    first.annotate(stop=StopRequest(id="t1"))
    wait_for((first.volume / "STOP_TRAINING").exists)
    first.kill()
    (first.volume / "done").write_text("")
    (first.volume / "STOP_BY_HAND").write_text("")
    time.sleep(0.1)
    second = make_pod("second", marker_files=("done",)).start()
    report = second.reports(lambda report: report.incarnation)
    assert not report.markers
    assert not (second.volume / "STOP_TRAINING").exists()


def test_a_path_that_cannot_be_read_is_said_at_once(make_pod):
    pod = make_pod()
    pod.volume.rmdir()
    pod.volume.write_text("not a directory")
    pod.start()
    report = pod.reports(lambda report: report.error)
    assert report.error.code == "Unreadable"
    assert "checkpoints" in report.error.message


def test_wrong_credentials_are_said_by_the_stores_code(make_pod, store):
    pod = make_pod()
    pod.keys("wrong")
    pod.start()
    report = pod.reports(lambda report: report.error)
    assert report.error.code == "SignatureDoesNotMatch"
    assert report.incarnation is None


def test_keys_that_are_renewed_are_used_without_a_restart(make_pod, tmp_path):
    data = tmp_path / "s3" / "data"
    with s3server.running(data) as server:
        store = Store(server)
        store.s3.create_bucket(Bucket=BUCKET)
        pod = make_pod(store=store).start()
        hf_checkpoint(pod.volume, 100)
        committed(store)
    with s3server.running(data, port=server.port, secret_key="renewed") as server:
        hf_checkpoint(pod.volume, 200)
        pod.reports(lambda report: report.error and report.error.code == "SignatureDoesNotMatch")
        pod.keys("renewed")
        renewed = Store(server, store.uid)
        wait_for(
            lambda: [commit.checkpoint and commit.checkpoint.step for commit in renewed.commits()] == [100, 200], 20
        )


def test_memory_stays_bounded_and_the_page_answers_while_uploading(make_pod, store):
    pod = make_pod().start()
    pod.reports(lambda report: report.incarnation)

    def resident(field: str) -> int:
        status = Path(f"/proc/{pod.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1]) // 1024

    idle = resident("VmRSS")
    large = pod.volume / "step_1.dat"
    large.touch()
    os.truncate(large, 320 * MIB)
    pod.reports(lambda report: report.uploaded_bytes)
    committed(store)
    peak = resident("VmHWM")
    assert idle <= 100
    assert peak <= 350
    assert resident("VmRSS") <= 100
