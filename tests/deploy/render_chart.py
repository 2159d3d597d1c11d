"""Lints and renders the chart as Helm does, and holds every document against Kubernetes' schemas.

For the Python of requirements/deploytest.txt. Values come on standard input, documents go to standard output, as JSON.
"""

import json
import sys

import helm_python as helm
import kubernetes_validate
import yaml

KUBERNETES = "1.29"  # the oldest with sidecars by default


def main() -> None:
    """The documents, or a sentence on standard error and status 1."""
    path, values = sys.argv[1], json.load(sys.stdin)
    findings = [finding for finding in _findings(helm.lint(path, values=values)) if "icon" not in json.dumps(finding)]
    with helm.Chart.load(path) as chart:
        rendered = chart.render(values, name="lake", namespace="default")
    documents = [one for text in rendered.values() for one in yaml.safe_load_all(text) if isinstance(one, dict)]
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    json.dump({"findings": findings, "documents": documents}, sys.stdout)


def _findings(report: object) -> list[object]:
    return list(report["messages"]) if isinstance(report, dict) and "messages" in report else list(report)


main()
