"""KubeRay's CRD schemas, and the part of them that our manifests use.

    python -m tests.kuberay_schema FOLDER VERSION

FOLDER holds `ray.io_rayjobs.yaml` and `ray.io_rayservices.yaml` of `helm-chart/kuberay-operator/crds` in KubeRay's
repository at that version. They are too large to be kept here, so this writes `tests/cases/kuberay.json`: the names and
types of the fields on the paths of every manifest that the cases make, all other fields refused. A field that KubeRay
does not know stops it.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.unit import kuberay_cases

SCHEMA_FILE = Path(__file__).parent / "cases" / "kuberay.json"
FILES = {"RayJob": "ray.io_rayjobs.yaml", "RayService": "ray.io_rayservices.yaml"}
KEPT = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "anyOf")
METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}
"""Of the objects themselves, which no CRD describes; names as the operator takes them."""


def crd_schema(folder: Path, kind: str) -> dict[str, Any]:
    """The schema of a kind in its version v1."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd = yaml.load((folder / FILES[kind]).read_text(), Loader=loader)
    (schema,) = [one["schema"]["openAPIV3Schema"] for one in crd["spec"]["versions"] if one["name"] == "v1"]
    schema["properties"]["metadata"] = METADATA
    return dict(schema)


def strict(schema: Any) -> Any:
    """The whole schema, with unknown fields refused, as `kubectl apply` and the API server's strict validation do."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        closed["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return closed


def used(schema: dict[str, Any], values: Sequence[Any]) -> dict[str, Any]:
    """The part of a schema that some values use.

    Raises:
        KeyError: a value has a field that the schema does not.
    """
    assert "x-kubernetes-validations" not in schema, "a rule in CEL, which no JSON schema says"
    found = {name: schema[name] for name in KEPT if name in schema}
    if "properties" in schema:
        names = sorted({name for value in values for name in value} | {*schema.get("required", ())})
        found["properties"] = {
            name: used(schema["properties"][name], [value[name] for value in values if name in value]) for name in names
        }
        found |= {"required": schema["required"]} if "required" in schema else {}
        found["additionalProperties"] = False
    elif "additionalProperties" in schema:
        found["additionalProperties"] = used(schema["additionalProperties"], [])
    elif "items" in schema:
        found["items"] = used(schema["items"], [item for value in values for item in value])
    return found


def main(folder: Path, version: str) -> None:
    """Write the file."""
    documents = kuberay_cases.all_documents()
    schemas = {}
    for kind in FILES:
        ours = [document for document in documents if document["kind"] == kind]
        schemas[kind] = used(crd_schema(folder, kind), ours)
    source = f"helm-chart/kuberay-operator/crds of github.com/ray-project/kuberay {version} (Apache-2.0)"
    entries = {"source": source, **schemas}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    SCHEMA_FILE.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
