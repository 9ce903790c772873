"""`kubectl trainingrun checkpoints` against a real S3 server: what is right is proven and downloaded, what is wrong is told and not left behind."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import s3server
from builders import checkpoint_spec, make_status
from fakes import stored_run
from shipment import FILES, RUN, Shipment

from trainingrun_operator.api.status import CheckpointStatus
from trainingrun_operator.checkpoints.documents import FileEntry
from trainingrun_operator.checkpoints.keys import Layout, Order
from trainingrun_operator.cli.main import run as main
from trainingrun_operator.cli.trouble import Exit
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.calls import Api

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.s3

WEIGHTS = "checkpoint-1200/model.safetensors"
OLD = Order(1, 3)
SAVED = 200
FOUND = 2
"""Lists: of the run that the address names, and of its commits."""
OF_ONE = 2
"""Its commit, and the manifest of its one rank."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3server.running(tmp_path_factory.mktemp("s3") / "buckets") as running:
        yield running


@dataclass
class Bucket:
    """One run's place in a bucket of its own."""

    server: s3server.S3Server
    layout: Layout
    client: object

    def ship(self, order: Order = OLD, **changes) -> Shipment:
        shipment = Shipment(self.client, self.layout, order, **changes)  # type: ignore[arg-type]
        shipment.send()
        return shipment

    @property
    def uri(self) -> str:
        return self.layout.uri(self.layout.base)

    def stored(self, **status) -> dict[str, object]:
        """The run, whose server is only known inside of its cluster."""
        spec = checkpoint_spec(
            destination=f"s3://{self.layout.bucket}/team/a",
            s3={"endpointURL": "https://s3.inside.test", "credentialsSecretName": "x"},
        )
        return stored_run(
            name=RUN.name,
            spec={"checkpoint": spec},
            namespace=RUN.namespace,
            uid=RUN.uid,
            status=make_status(phase="Running", **status).dump(),
        )


@pytest.fixture
def there(server, monkeypatch, request):
    """An empty bucket, and a person who may read it."""
    client = server.client()
    name = f"cli-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}"
    client.create_bucket(Bucket=name)
    for variable in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint_url)
    yield Bucket(server, Layout.of(f"s3://{name}/team/a", RUN.namespace, RUN.name, RUN.uid), client)
    client.close()


@pytest.fixture
def plugin(capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str):
        code = main(("checkpoints", *arguments))
        out, err = capfd.readouterr()
        return int(code), out, err

    return call


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """Has one run, and says it whatever it is asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "kubectl"
    script.write_text('#!/bin/sh\ncat "$0.json"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    def has(stored):
        (folder / "kubectl.json").write_text(json.dumps(stored))

    return has


def on_disk(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_commits_are_listed_newest_first_and_the_proven_one_is_marked(there, plugin, kubectl):
    proven = there.ship(Order(1, 3))
    there.ship(Order(2, 1), commit={"final": True, "reason": "sigterm"})
    kubectl(there.stored(checkpoint=CheckpointStatus(commit=proven.commit_key)))
    code, out, _ = plugin("list", RUN.name)
    assert code == 0
    newest, older = out.splitlines()[1:]
    assert newest.split()[:3] == ["i2-g0001", "1200", "checkpoint-1200"]
    assert newest.endswith("pod terminated  final")
    assert older.split()[0] == "i1-g0003"
    assert older.endswith("requested       proven by the operator")


def test_a_commit_that_cannot_be_read_is_listed_with_its_complaint(there, plugin):
    there.ship()
    there.client.put_object(Bucket=there.layout.bucket, Key=there.layout.commit(Order(1, 4)), Body=b"{")
    _, out, _ = plugin("list", there.uri)
    assert "i1-g0004" in out
    assert "unreadable: it does not parse" in out


@pytest.mark.parametrize(
    ("arguments", "requests"),
    [
        pytest.param(("list",), FOUND + SAVED, id="the list shows something of each"),
        pytest.param(
            ("download",), FOUND + SAVED + OF_ONE + 2, id="the furthest of all is downloaded, without its empty file"
        ),
        pytest.param(("download", "i1-g0003"), FOUND + OF_ONE + 2, id="the one that is named is downloaded"),
        pytest.param(("verify",), FOUND + SAVED + OF_ONE + len(FILES), id="the furthest of all is verified"),
    ],
)
def test_only_what_is_asked_for_is_read(there, plugin, arguments, requests):
    there.ship(Order(1, 3))
    for number in range(4, 2 + SAVED):
        there.client.put_object(Bucket=there.layout.bucket, Key=there.layout.commit(Order(1, number)), Body=b"{}")
    there.ship(Order(2, 1))
    before = calls.made()[Api.S3]
    code, out, err = plugin(arguments[0], there.uri, *arguments[1:])
    assert (code, err, calls.made()[Api.S3] - before) == (0, "", requests), out


def test_what_is_right_is_proven(there, plugin):
    there.ship()
    code, out, err = plugin("verify", there.uri)
    assert (code, err) == (0, "")
    assert out.startswith("i1-g0003  proven  checkpoint-1200: 3 files, 7 kB")
    assert f"s3://{there.layout.bucket}/" in out


def test_the_one_that_the_operator_has_proven_is_verified_unless_another_is_named(there, plugin, kubectl):
    proven = there.ship(Order(1, 3))
    there.ship(Order(1, 4))
    kubectl(there.stored(checkpoint=CheckpointStatus(commit=proven.commit_key)))
    assert plugin("verify", RUN.name)[1].startswith("i1-g0003")
    assert plugin("verify", RUN.name, "i1-g4")[1].startswith("i1-g0004")
    assert [line.split()[0] for line in plugin("verify", RUN.name, "--all")[1].splitlines() if "proven" in line] == [
        "i1-g0004",
        "i1-g0003",
    ]


def damage(there, shipment):
    """Other bytes of the same size, with a checksum of their own, as S3 keeps it."""
    shipment.put(shipment.key(WEIGHTS), b"wrongth" * 1000)


def test_other_bytes_are_not_proven_and_not_downloaded(there, plugin, tmp_path):
    damage(there, there.ship())
    code, out, err = plugin("verify", there.uri)
    assert code == Exit.NOT_PROVEN
    assert "'checkpoint-1200/model.safetensors' has other bytes in the bucket than on the volume" in out
    assert err == "error: 1 of 1 not proven: i1-g0003.\n"
    code, _, err = plugin("download", there.uri, "--to", "here")
    assert code == Exit.NOT_PROVEN
    assert "No file was written." in err
    assert on_disk(tmp_path / "here") == {}, "A trainer must not find half a checkpoint."


def test_a_manifest_that_is_not_the_commits_is_not_proven(there, plugin):
    shipment = there.ship()
    shipment.put(shipment.manifest_key(), b"{}")
    for command in ("verify", "download"):
        code, out, err = plugin(command, there.uri)
        assert code == Exit.NOT_PROVEN
        assert "is not the one that the commit names" in out + err


def test_a_file_that_is_gone_is_told(there, plugin):
    shipment = there.ship()
    there.client.delete_object(Bucket=there.layout.bucket, Key=shipment.key(WEIGHTS))
    assert "is not in the bucket" in plugin("verify", there.uri)[1]
    assert plugin("download", there.uri)[0] == Exit.NOT_PROVEN


def test_a_download_is_what_was_shipped(there, plugin, tmp_path):
    there.ship()
    code, out, _ = plugin("download", there.uri, "--to", "here")
    assert code == 0
    assert out.splitlines() == ["3 files, 7 kB, checksums match:", "    here/checkpoint-1200"]
    assert on_disk(tmp_path / "here") == dict(sorted(FILES.items()))


def test_a_download_goes_on_where_it_was_and_takes_nothing_away(there, plugin, tmp_path):
    there.ship()
    plugin("download", there.uri)
    folder = tmp_path / "llama-i1-g0003"
    before = on_disk(folder)
    (folder / "checkpoint-1200" / "empty").unlink()
    (folder / "notes.txt").write_text("mine")
    assert plugin("download", there.uri)[0] == 0
    assert on_disk(folder) == {**before, "notes.txt": b"mine"}


def test_a_file_of_mine_is_not_written_over(there, plugin, tmp_path):
    there.ship()
    mine = tmp_path / "here" / WEIGHTS
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    code, _, err = plugin("download", there.uri, "--to", "here")
    assert code == Exit.FAILED
    assert "model.safetensors exists with other content" in err
    assert mine.read_bytes() == b"mine"


def test_a_manifest_that_leads_out_of_the_folder_writes_nothing_there(there, plugin, tmp_path):
    there.ship(files={"../evil": b"x"})
    code, _, err = plugin("download", there.uri, "--to", "here")
    assert code == Exit.NOT_PROVEN
    assert "does not stay below the checkpoint path" in err
    assert not (tmp_path / "evil").exists()


def test_a_link_that_leads_out_of_the_folder_is_left_out_and_told(there, plugin, tmp_path):
    links = (
        FileEntry(path="base/model", link_target="/root/.cache/model"),
        FileEntry(path="latest", link_target="checkpoint-1200"),
    )
    there.ship(files={}, manifest={"files": links, "total_files": 2})
    code, _, err = plugin("download", there.uri, "--to", "here")
    assert code == 0
    assert "The link base/model is left out: it points out of the checkpoint path" in " ".join(err.split())
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["latest"]


def test_an_empty_place_is_told(there, plugin):
    assert plugin("list", there.uri)[2].startswith(f"There is no checkpoint at {there.uri}")
    for which in ((), ("--all",)):
        assert plugin("verify", there.uri, *which)[0] == Exit.NO_SUCH_RUN


def test_a_generation_that_is_not_there_is_answered_with_those_that_are(there, plugin):
    there.ship()
    code, _, err = plugin("verify", there.uri, "i9-g0009")
    assert code == Exit.NO_SUCH_RUN
    assert "there is i1-g0003" in err
    assert plugin("verify", there.uri, "newest")[0] == Exit.USAGE


def test_a_run_that_saves_nothing_says_so(there, plugin, kubectl):
    kubectl(stored_run(spec={"checkpoint": {"mode": "Disabled"}}))
    code, _, err = plugin("list", "bert")
    assert (code, err) == (Exit.NO_SUCH_RUN, "error: bert saves no checkpoints: spec.checkpoint.mode is Disabled.\n")


@pytest.mark.parametrize("address", ["s3://", "s3://B", "s3://bucket/../ml/bert/uid", "s3://bucket/.."])
def test_an_address_that_is_none_is_refused_without_a_request(plugin, address):
    before = calls.made()
    code, _, err = plugin("list", address)
    assert (code, calls.made()) == (Exit.USAGE, before)
    assert "does not have the form s3://bucket/prefix/namespace/run/uid" in err


@pytest.mark.parametrize("below", ["", "/uid", "/team"])
def test_an_address_below_which_no_run_is_found_is_refused(there, plugin, below):
    code, _, err = plugin("list", f"s3://{there.layout.bucket}{below}")
    assert code == Exit.USAGE
    assert "does not have the form s3://bucket/prefix/namespace/run/uid" in err


@pytest.mark.parametrize(
    ("environment", "arguments", "code", "words"),
    [
        pytest.param(
            {"AWS_SECRET_ACCESS_KEY": "wrong"},
            (),
            Exit.FORBIDDEN,
            "(SignatureDoesNotMatch): your secret key does not match",
            id="a wrong secret key",
        ),
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "nobody"},
            (),
            Exit.FORBIDDEN,
            "(InvalidAccessKeyId): the store does not know your access key",
            id="an unknown key",
        ),
        pytest.param(
            {},
            ("--endpoint-url", "http://127.0.0.1:1"),
            Exit.NO_CLUSTER,
            "set --endpoint-url to one that you can reach",
            id="nobody listens",
        ),
        pytest.param({}, ("--endpoint-url", "nowhere"), Exit.NO_CLUSTER, "correct --endpoint-url", id="no address"),
    ],
)
def test_a_bucket_that_cannot_be_read_says_what_to_do(there, plugin, monkeypatch, environment, arguments, code, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for command in ("list", "verify", "download"):
        answered, _, err = plugin(command, there.uri, *arguments)
        assert answered == code
        assert words in err
        assert "Secret" not in err, "The operator's advice is not a person's."
