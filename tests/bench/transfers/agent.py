"""The agent's own upload and restore as a process. Usage: python -m bench.transfers.agent upload|restore ENDPOINT FOLDER SECRET-FOLDER MANIFEST

`upload` sends all files of FOLDER and writes the manifest; `restore` fetches what the manifest names. Prints the seconds and the CPU seconds of the work as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from trainingrun_operator.agent import process
from trainingrun_operator.agent.cargo import Tally, Wanted
from trainingrun_operator.agent.upload import Shipment
from trainingrun_operator.agent.volume.scan import Filter, scan
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.checkpoints import bucket
from trainingrun_operator.checkpoints.documents import Checkpoint, Manifest, PodRef, RunRef
from trainingrun_operator.checkpoints.download import Download
from trainingrun_operator.checkpoints.keys import Layout, Order

RUN = RunRef(namespace="bench", name="ours", uid="0")
POD = PodRef(name="ours-0", uid="0")


def upload(store: bucket.Bucket, layout: Layout, root: str, manifest: Path) -> None:
    """Send the files as the last save of a training that has ended."""
    folder = layout.folder(0, Order(1, 1), POD.name)
    wanted = [Wanted(path, entry) for path, entry in scan(root, Filter()).entries.items()]
    cargo = Shipment(store, root, folder, Tally(), lambda: False).send(wanted, ended=True)
    if cargo.skipped or len(cargo.files) != len(wanted):
        raise RuntimeError(f"{len(cargo.files)} of {len(wanted)} files were sent")
    about = Checkpoint(dir="", complete=True, evidence="bench")
    written = Manifest(
        run=RUN, pod=POD, incarnation=1, generation=1, checkpoint=about, folder=folder, files=tuple(cargo.files)
    )
    manifest.write_text(written.model_dump_json(by_alias=True), encoding="utf-8")


def restore(store: bucket.Bucket, layout: Layout, root: str, manifest: Path) -> None:
    """Fetch the files into a folder."""
    Download(store, layout, Path(root)).fetch(Manifest.model_validate_json(manifest.read_bytes()))


def main() -> None:
    """Do the work once."""
    way, endpoint, root, secret, manifest = sys.argv[1:]
    process.set_up()
    config = AgentConfig(
        namespace=RUN.namespace,
        run=RUN.name,
        run_uid=RUN.uid,
        path=root,
        destination="s3://bench/ours",
        endpoint_url=endpoint,
        region="us-east-1",
        secret_dir=secret,
    )
    layout = Layout.of(config.destination, RUN.namespace, RUN.name, RUN.uid)
    store = bucket.Bucket(bucket.client(config), layout.bucket)
    began, used = time.perf_counter(), time.process_time()
    {"upload": upload, "restore": restore}[way](store, layout, root, Path(manifest))
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    sys.stdout.write(json.dumps(took) + "\n")


if __name__ == "__main__":
    main()
