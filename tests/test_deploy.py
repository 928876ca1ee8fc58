"""The files of deploy/, as far as they can be checked without a cloud: Ray's own schema for `ray up`; for KubeRay, whose schema
no package ships, one of the fields that its documentation names; the instructions of the Dockerfile."""

from __future__ import annotations

import copy
import json
import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from thrifty import cli
from thrifty.trials_connect import ray

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
TEXT, WHOLE, MAP = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}, {"type": "object"}
NAMED = {"type": "object", "required": ["name"]}


def strict(required: str, **fields: Any) -> dict[str, Any]:
    """A schema of an object with these fields and no others."""
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


CONTAINER = strict(
    "name image resources",
    name=TEXT,
    image={"type": "string", "pattern": r"^[^\s:]+(:\d+)?(/[^\s:]+)+:[\w.-]+$"},
    resources=strict("limits requests", limits={"additionalProperties": TEXT}, requests={"additionalProperties": TEXT}),
    volumeMounts={"type": "array", "items": strict("name mountPath", name=TEXT, mountPath=TEXT)},
)
POD = strict(
    "spec",
    spec=strict(
        "containers",
        containers={"type": "array", "items": CONTAINER, "minItems": 1},
        volumes={"type": "array", "items": NAMED},
        securityContext=strict("runAsNonRoot", runAsNonRoot={"const": True}, runAsUser=WHOLE, fsGroup=WHOLE),
        terminationGracePeriodSeconds=WHOLE,
    ),
)
PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}
WORKERS = strict(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    groupName=TEXT, replicas=WHOLE, minReplicas=WHOLE, maxReplicas=WHOLE, rayStartParams=PARAMS, template=POD,
)  # fmt: skip
RAY_JOB = strict(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=MAP,
    spec=strict(
        "entrypoint rayClusterSpec",
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        backoffLimit=WHOLE,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=WHOLE,
        runtimeEnvYAML=TEXT,
        rayClusterSpec=strict(
            "rayVersion headGroupSpec",
            rayVersion=TEXT,
            headGroupSpec=strict("rayStartParams template", rayStartParams=PARAMS, template=POD),
            workerGroupSpecs={"type": "array", "items": WORKERS},
        ),
    ),
)


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / name).read_text())


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_clusters_for_ray_up_are_of_rays_schema(name: str) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = read(name)
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate({**cluster, "max_worker": 1}, schema)
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types and types["head"]["resources"] == {"CPU": 0}
    assert types["gpu_spot"]["min_workers"] >= 1, "a study is refused while no machine can take a trial"
    spot = types["gpu_spot"]["node_config"]
    assert spot.get("InstanceMarketOptions", {}).get("MarketType") == "spot" or spot["scheduling"]["provisioningModel"] == "SPOT"
    assert "spot" not in json.dumps(types["head"]["node_config"]).lower()
    (start,) = [command for command in cluster["head_start_ray_commands"] if command.startswith("ray start")]
    assert "--dashboard-host=127.0.0.1" in shlex.split(start) and "0.0.0.0" not in start


def test_the_ray_job_is_of_the_fields_that_kuberay_documents() -> None:
    job = read("rayjob.yaml")
    jsonschema.validate(job, RAY_JOB)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == metadata.version("ray")
    for path, value in [
        (("spec", "entryPoint"), "x"),
        (("spec", "backoffLimit"), "0"),
        (("spec", "rayClusterSpec", "image"), "x"),
    ]:
        broken: Any = copy.deepcopy(job)
        place = broken
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, RAY_JOB)


def test_what_the_job_calls_is_there() -> None:
    words = shlex.split(read("rayjob.yaml")["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "thrifty"] and words[3] in {
        command.callback.__name__ for command in cli.app.registered_commands
    }
    assert (ROOT / "tune_runs" / f"{words[4]}.yaml").is_file()


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def test_the_image_has_a_pinned_base_all_its_files_and_no_root() -> None:
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "CMD"}
    found = instructions()
    assert {word for word, _ in found} == known and found[0][0] == "FROM"
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", found[0][1]), "a version down to the patch, and the system's name"
    (user,) = [place for place, (word, _) in enumerate(found) if word == "USER"]
    assert found[user][1] == "1000" and all(word != "RUN" for word, _ in found[user:])
    for word, rest in found:
        for source in rest.split()[:-1] if word == "COPY" else []:
            assert (ROOT / source).exists(), source
    assert json.loads(dict(found)["CMD"])[0] == "thrifty"
    assert any("--constraint constraints.txt '.[cluster,dicom,storage]'" in rest for _, rest in found)


def test_one_image_and_one_disk_everywhere() -> None:
    texts = [(DEPLOY / name).read_text() for name in ("aws.yaml", "gcp.yaml", "rayjob.yaml", "Dockerfile")]
    assert len({image for text in texts for image in re.findall(r"registry\.example\.com/[\w:.]+", text)}) == 1
    assert all("/mnt/thrifty" in text for text in texts)
