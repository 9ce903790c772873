#!/usr/bin/env python3
"""The bill of materials of an image: its Python packages, as CycloneDX JSON, which Syft, Grype and Trivy read.

    tools/sbom.py PACKAGES LOCK SOURCES NAME VERSION BASE > NAME.cdx.json

PACKAGES is the folder that goes into the image, LOCK the file that it was installed from. SOURCES is the folder of the image's own code, which may hold
scripts of others for browsers. BASE is the base image; what it holds, a scanner of the whole image adds.
The same inputs give the same bytes. It needs Python alone, since images are built where nothing is installed.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any

Json = dict[str, Any]

ARGUMENTS = 6
_SCRIPT = re.compile(r"/\*! https://github\.com/[\w.-]+/(?P<name>[\w.-]+) \(v(?P<version>[\w.-]+)\)")
_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NEEDED = re.compile(r"^[A-Za-z0-9._-]+")


class SbomError(Exception):
    """The folder does not hold what the lock names."""


def normal(name: str) -> str:
    """Return a package's name as PyPI's addresses have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(lock: str) -> dict[str, tuple[str, list[str]]]:
    """Return version and SHA-256 sums of the distributions by name, from the text of a lock."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in lock.splitlines():
        if match := _PINNED.match(line):
            name = normal(match["name"])
            found[name] = match["version"], []
        if name and (sums := _HASH.findall(line)):
            found[name][1].extend(sums)
    return found


def purl(name: str, version: str) -> str:
    """Return the package's URL, by which scanners look for vulnerabilities."""
    return f"pkg:pypi/{normal(name)}@{version}"


def licence(metadata: importlib.metadata.PackageMetadata) -> list[Json]:
    """Return the licence as the package states it: an SPDX expression, or a name."""
    if expression := metadata.get("License-Expression"):
        return [{"expression": expression}]
    named = [one.rpartition(" :: ")[2] for one in metadata.get_all("Classifier") or () if one.startswith("License :: ")]
    short = metadata.get("License") or ""
    names = named or ([short] if short and len(short.splitlines()) == 1 else [])
    return [{"license": {"name": name}} for name in sorted(set(names))]


def component(package: importlib.metadata.Distribution, sums: list[str]) -> Json:
    """Return the entry of one package. Its distributions differ by machine, so each sum has its own reference."""
    name, version = package.metadata["Name"], package.version
    made: Json = {"type": "library", "bom-ref": purl(name, version), "name": name, "version": version}
    if licences := licence(package.metadata):
        made["licenses"] = licences
    made["purl"] = purl(name, version)
    address = f"https://pypi.org/project/{normal(name)}/{version}/"
    made["externalReferences"] = [
        {"type": "distribution", "url": address, "hashes": [{"alg": "SHA-256", "content": one}]} for one in sorted(sums)
    ]
    return made


def script(path: Path) -> Json | None:
    """Return the entry of a script for browsers, by its first line; None if that line names no project and version."""
    with path.open(encoding="utf-8", errors="replace") as there:
        match = _SCRIPT.match(there.readline(500))
    if match is None:
        return None
    name, version = match["name"], match["version"]
    reference = f"pkg:npm/{name.lower()}@{version}"
    return {"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference}


def scripts(sources: Path) -> list[Json]:
    """Return the scripts of others in the folders called vendor.

    Raises:
        SbomError: one does not say what it is.
    """
    found = []
    for path in sorted(sources.rglob("vendor/**/*.js")):
        if (made := script(path)) is None:
            raise SbomError(f"{path} does not name its project and version in its first line")
        found.append(made)
    return found


def needed(package: importlib.metadata.Distribution, there: dict[str, str]) -> list[str]:
    """Return the references of the packages that it needs, without those that only an extra needs."""
    required = (one for one in package.requires or () if "extra ==" not in one)
    names = (normal(match[0]) for one in required if (match := _NEEDED.match(one)))
    return sorted({there[name] for name in names if name in there})


def sbom(packages: Path, lock: str, sources: Path, name: str, version: str, base: str) -> Json:
    """Make the document.

    Raises:
        SbomError: a package is missing in the folder or in the lock, or has another version.
    """
    pinned = locked(lock)
    found = {normal(one.metadata["Name"]): one for one in importlib.metadata.distributions(path=[str(packages)])}
    for one, package in found.items():
        if one not in pinned or pinned[one][0] != package.version:
            said = f"version {pinned[one][0]}" if one in pinned else "nothing of that name"
            raise SbomError(f"{packages} has {one} {package.version}, but the lock names {said}: install it again")
    if not found:
        raise SbomError(f"{packages} has no packages: expected the folder that tools/site-packages makes")
    there = {one: purl(one, package.version) for one, package in found.items()}
    own = f"pkg:generic/{name}@{version}"
    root: Json = {"type": "container", "bom-ref": own, "name": name, "version": version, "purl": own}
    root["properties"] = [{"name": "org.opencontainers.image.base.name", "value": base}]
    ours = scripts(sources)
    parts = [*there.values(), *(one["bom-ref"] for one in ours)]
    body: Json = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": root},
        "components": [*(component(found[one], pinned[one][1]) for one in sorted(found)), *ours],
        "dependencies": [
            {"ref": own, "dependsOn": sorted(parts)},
            *({"ref": there[one], "dependsOn": needed(found[one], there)} for one in sorted(found)),
            *({"ref": one["bom-ref"], "dependsOn": []} for one in ours),
        ],
    }
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    return {"$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json", "serialNumber": f"urn:uuid:{number}", **body}


def main(arguments: list[str]) -> int:
    """Print the document; return the exit code."""
    if len(arguments) != ARGUMENTS:
        sys.stderr.write("usage: tools/sbom.py PACKAGES LOCK SOURCES NAME VERSION BASE\n")
        return 2
    packages, lock, sources, *named = arguments
    try:
        made = sbom(Path(packages), Path(lock).read_text(encoding="utf-8"), Path(sources), *named)
    except (SbomError, OSError) as error:
        sys.stderr.write(f"sbom: {error}\n")
        return 1
    json.dump(made, sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
