"""The bill of materials names exactly what the requirements name."""

import json
import re
import subprocess
import sys

import pytest

from deploy.sbom import PRODUCT, ROOT, Package, bill, packages


def test_every_pinned_package_is_listed_once_with_its_hashes() -> None:
    text = PRODUCT.read_text("utf-8")
    run = subprocess.run([sys.executable, "deploy/sbom.py"], cwd=ROOT, capture_output=True, check=True, timeout=60)
    document = json.loads(run.stdout)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    pinned = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[.*?\])?==([^\s;\\]+)", text, re.MULTILINE)
    listed = [(part["name"], part["version"]) for part in document["components"]]
    assert sorted(listed) == sorted((re.sub("[-_.]+", "-", name).lower(), version) for name, version in pinned)
    assert ("django", dict(listed)["django"]) in listed
    hashes = [item["content"] for part in document["components"] for item in part["externalReferences"][0]["hashes"]]
    assert sorted(hashes) == sorted(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
    references = [part["bom-ref"] for part in document["components"]]
    assert len(set(references)) == len(references)
    assert document["dependencies"][0]["dependsOn"] == references


def test_a_marker_and_extras_are_not_part_of_the_name() -> None:
    lines = ["Some_Name[extra]==1.0 ; sys_platform == 'win32' \\", f"    --hash=sha256:{'a' * 64}", "    # via other"]
    expected = Package(name="some-name", version="1.0", marker="sys_platform == 'win32'", hashes=("a" * 64,))
    assert list(packages(lines)) == [expected]
    (component,) = bill([expected], name="product", version="2")["components"]
    assert component["properties"] == [{"name": "duckmesh:marker", "value": "sys_platform == 'win32'"}]


@pytest.mark.parametrize("line", ["django>=5", "django==5.2", "-r other.txt", "git+https://x"])
def test_what_is_not_pinned_with_hashes_has_no_bill(line: str) -> None:
    with pytest.raises(ValueError, match=r"not a pinned package|has no hash"):
        list(packages([line]))
