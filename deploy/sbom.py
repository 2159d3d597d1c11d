"""The software bill of materials: every package that the hashed requirements name, as CycloneDX 1.6.

    python deploy/sbom.py > sbom.json                          # what the product runs on
    python deploy/sbom.py requirements/dev.txt > sbom.json     # or another of the lists

It is made from the lists alone, so the same lists give the same bytes.
"""

import argparse
import json
import re
import sys
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ROOT / "requirements" / "base.txt"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:duckmesh:sbom")
_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)\s*(?:;\s*([^\\]*?))?\s*\\?$")
_HASH = re.compile(r"\s+--hash=sha256:([0-9a-f]{64})\s*\\?$")


@dataclass(frozen=True, kw_only=True)
class Package:
    """One version of a package, where it is needed (a marker, or empty), and the files that may be installed as it."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Its address as a package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"


def packages(lines: Iterable[str]) -> Iterator[Package]:
    """The packages of a list of requirements; `ValueError` names a line that is neither package, hash nor comment."""
    pinned: re.Match[str] | None = None
    hashes: list[str] = []
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if found := _HASH.match(line):
            hashes.append(found[1])
            continue
        if pinned:
            yield _package(pinned, hashes)
        pinned, hashes = _PINNED.match(line), []
        if pinned is None:
            raise ValueError(f"not a pinned package: {line.strip()!r}")
    if pinned:
        yield _package(pinned, hashes)


def _package(pinned: re.Match[str], hashes: list[str]) -> Package:
    if not hashes:
        raise ValueError(f"{pinned[1]} has no hash")
    name = re.sub(r"[-_.]+", "-", pinned[1]).lower()
    return Package(name=name, version=pinned[2], marker=(pinned[3] or "").strip(), hashes=tuple(sorted(hashes)))


def bill(found: Iterable[Package], *, name: str, version: str) -> dict[str, Any]:
    """The CycloneDX document of the product `name` made of these packages. `Any`: JSON, as the standard has it."""
    listed = sorted({package.purl: package for package in found}.values(), key=lambda package: package.purl)
    components = [_component(package) for package in listed]
    serial = uuid.uuid5(_NAMESPACE, json.dumps(components))
    root = f"pkg:generic/{name}@{version}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": root, "name": name, "version": version}},
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [package.purl for package in listed]}],
    }


def _component(package: Package) -> dict[str, Any]:
    files = [{"alg": "SHA-256", "content": digest} for digest in package.hashes]
    address = f"https://pypi.org/project/{package.name}/{package.version}/"
    marked = [{"name": "duckmesh:marker", "value": package.marker}] if package.marker else []
    return {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        "externalReferences": [{"type": "distribution", "url": address, "hashes": files}],
        **({"properties": marked} if marked else {}),
    }


def main() -> None:
    """Write the bill of the lists that are named to stdout."""
    parser = argparse.ArgumentParser(description="Write a CycloneDX bill of materials of hashed requirements.")
    parser.add_argument("lists", nargs="*", type=Path, default=[PRODUCT])
    found = [each for path in parser.parse_args().lists for each in packages(path.read_text("utf-8").splitlines())]
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert version
    json.dump(bill(found, name="duckmesh", version=version[1]), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
