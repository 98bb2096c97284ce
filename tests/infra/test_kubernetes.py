"""The manifests: built by kustomize, valid by Kubernetes' schemas, and by rules of ours."""

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import uuid

import kubernetes_validate
import pytest
import yaml

from tests.infra.rendering import write
from tests.website.test_shown_commands import check

VERSION = "1.33"    # of infra/terraform/aws
OVERLAYS = ("self-hosted", "aws")
PLACEHOLDER = re.compile(r"{{ (\w+) }}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write("kubernetes", tmp_path_factory.mktemp("kubernetes"), namespace="team")


@pytest.fixture(scope="module")
def built(folder):
    """The objects of each overlay."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here, which builds the overlays")
    said = {name: subprocess.run(["kubectl", "kustomize", folder / "overlays" / name], capture_output=True, text=True,
                                 check=True).stdout for name in OVERLAYS}  # fmt: skip
    return {name: list(yaml.safe_load_all(text)) for name, text in said.items()}


def pods(objects: list[dict]):
    """(name, pod) of all that start pods."""
    for item in objects:
        if "template" in item.get("spec", {}):
            yield item["metadata"].get("name", "run"), item["spec"]["template"]["spec"]


def job_of_the_pool(folder) -> dict:
    """The Job that Prefect's worker makes of the template for a flow run, with the defaults of the pool."""
    template = json.loads((folder / "jobs/work-pool.json").read_text())
    properties = template["variables"]["properties"]
    values = {"name": "run", "command": ["prefect", "flow-run", "execute"], "env": [{"name": "A", "value": "b"}],
              "labels": {"a": "b"}} | {name: item["default"] for name, item in properties.items() if "default" in item}
    assert set(PLACEHOLDER.findall(json.dumps(template))) == set(properties)

    def fill(node):
        if isinstance(node, dict):
            return {key: fill(value) for key, value in node.items()}
        if isinstance(node, list):
            return [fill(value) for value in node]
        whole = PLACEHOLDER.fullmatch(node) if isinstance(node, str) else None
        if whole:
            return values[whole[1]]
        return PLACEHOLDER.sub(lambda found: str(values[found[1]]), node) if isinstance(node, str) else node

    return fill(template["job_configuration"]["job_manifest"])


def ranks(folder) -> list[dict]:
    """The Service and the Job of nodes that train together."""
    return list(yaml.safe_load_all((folder / "jobs/ranks.yaml").read_text()))


@pytest.mark.parametrize("workers", [1, 3])
def test_nodes_that_train_together_find_each_other_by_name(tmp_path, workers):
    service, job = ranks(write("kubernetes", tmp_path, workers=workers))
    kubernetes_validate.validate(service, VERSION, strict=True)
    count, spec = max(workers, 2), job["spec"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": "ranks"}
    assert spec["completions"] == spec["parallelism"] == count and spec["completionMode"] == "Indexed"
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}, "the others serve for ever"
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"] == job["metadata"]["name"]
    words = shlex.split(pod["containers"][0]["command"][2].replace("\\\n", " "))
    check(words[words.index("fewstep", words.index("exec", words.index("clone"))) :])
    assert f"compute.nodes={count}" in words and f"compute.units.most={count - 1}" in words
    (launch,) = (word for word in words if word.startswith("compute.launch="))
    assert launch.split()[-2:] == [f"{pod['subdomain']}-NODE.{pod['subdomain']}", words[words.index("serve") + 1]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_objects_are_valid_in_one_namespace_and_refer_to_each_other(built, overlay):
    objects = built[overlay]
    for item in objects:
        kubernetes_validate.validate(item, VERSION, strict=True)
        assert item["kind"] in ("Namespace", "StorageClass") or item["metadata"]["namespace"] == "team"
        assert item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "fewstep"
    named = {(item["kind"], item["metadata"]["name"]) for item in objects}
    for name, pod in pods(objects):
        assert ("ServiceAccount", pod.get("serviceAccountName", "")) in named or not pod["automountServiceAccountToken"]
        maps = {source["configMapRef"]["name"] for container in pod["containers"]
                for source in container.get("envFrom", []) if "configMapRef" in source}  # fmt: skip
        assert all(("ConfigMap", one) in named for one in maps), name
    assert {"prefect", "mlflow", "postgres"} <= {name for kind, name in named if kind == "Service"}
    assert (("StatefulSet", "postgres") in named) == (overlay == "self-hosted")
    classes = [item["metadata"]["annotations"] for item in objects if item["kind"] == "StorageClass"]
    assert classes == [{"storageclass.kubernetes.io/is-default-class": "true"}] * (overlay == "aws")


def test_images_of_a_registry_with_a_login_are_pulled(built):
    accounts = [item for item in built["aws"] if item["kind"] == "ServiceAccount"]
    assert [item["imagePullSecrets"] for item in accounts] == [[{"name": "registry"}]] * 3


def test_a_wrong_field_would_be_found(built):
    wrong = next(item for item in built["aws"] if item["kind"] == "Deployment")
    wrong = json.loads(json.dumps(wrong).replace('"replicas"', '"replica"'))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_pods_keep_to_the_restricted_standard_and_hold_no_secret(built, folder):
    seeds = yaml.safe_load((folder / "jobs/seeds.yaml").read_text())
    everything = [*built["self-hosted"], *built["aws"], seeds, ranks(folder)[1], job_of_the_pool(folder)]
    checked = 0
    for name, pod in pods(everything):
        safe = pod["securityContext"]
        assert safe["runAsNonRoot"] and safe["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"] and "latest" not in container["image"]
            for variable in container.get("env", []):
                named = variable["name"].startswith("PREFECT_INTEGRATIONS_")     # where one is, not what
                assert named or not re.search("PASSWORD|SECRET|AUTH", variable["name"]) or "valueFrom" in variable
            checked += 1
        volumes = pod.get("volumes", [])
        assert all(set(volume) & {"emptyDir", "ephemeral", "configMap"} for volume in volumes), "a disk that is shared"
    assert checked >= 10 and not [item for item in everything if item["kind"] == "Secret"]


def test_the_network_lets_in_what_is_listened_on_and_nothing_else(built):
    policies = {item["metadata"]["name"]: item["spec"] for item in built["self-hosted"]
                if item["kind"] == "NetworkPolicy"}  # fmt: skip
    assert policies.pop("nothing-comes-in") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    runs = {"podSelector": {"matchLabels": {"app": "run"}}}
    assert policies.pop("among-runs") == {**runs, "policyTypes": ["Ingress"], "ingress": [{"from": [runs]}]}
    listened = {name: port["containerPort"] for name, pod in pods(built["self-hosted"])
                for container in pod["containers"] for port in container.get("ports", [])}  # fmt: skip
    assert {name.removeprefix("to-"): spec["ingress"][0]["ports"][0]["port"] for name, spec in policies.items()} \
        == listened
    for spec in policies.values():
        assert spec["ingress"][0]["from"] == [{"podSelector": {}}]


@pytest.mark.parametrize("gpus", [0, 2])
def test_jobs_of_runs_ask_for_gpus_and_get_time_to_stop(tmp_path, gpus):
    folder = write("kubernetes", tmp_path, grace_seconds=600, workers=3, worker={"gpus": gpus, "disk_gib": 50})
    of_pool, seeds = job_of_the_pool(folder), yaml.safe_load((folder / "jobs/seeds.yaml").read_text())
    for job in (of_pool, seeds, ranks(folder)[1]):
        kubernetes_validate.validate(job, VERSION, strict=True)
        pod = job["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == 600 and pod["restartPolicy"] == "Never"
        assert pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0) == gpus
        assert job["spec"]["template"]["metadata"]["labels"]["app"] == "run"
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert {"name": mounts["/dev/shm"], "emptyDir": {"medium": "Memory"}} in pod["volumes"], "64 MB for NCCL"
        disk = pod["volumes"][0]["ephemeral"]["volumeClaimTemplate"]["spec"]
        assert disk["resources"]["requests"]["storage"] == "50Gi"
    assert seeds["spec"]["completionMode"] == "Indexed" and seeds["spec"]["completions"] == 3
    assert of_pool["spec"]["backoffLimit"] == 0, "Prefect gives a run to the next worker"
    (address,) = (one for one in of_pool["spec"]["template"]["spec"]["containers"][0]["env"]
                  if one["name"] == "FEWSTEP_ADDRESS")  # fmt: skip
    assert address["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}, "no pod resolves another's name"


def environment_of_the_worker(built) -> dict[str, str]:
    """What its Deployment says in words."""
    (pod,) = (pod for name, pod in pods(built["self-hosted"]) if name == "worker")
    return {one["name"]: one["value"] for one in pod["containers"][0]["env"] if "value" in one}


def test_the_worker_keeps_to_its_namespace_and_its_password_out_of_jobs(built):
    given = environment_of_the_worker(built)
    assert given["PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"] == "team"
    assert given["PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_NAME"] == "fewstep"
    rights = {(kind, verb) for item in built["self-hosted"] if item["kind"] == "Role" for rule in item["rules"]
              for kind in rule["resources"] for verb in rule["verbs"]}  # fmt: skip
    assert not [item for item in built["self-hosted"] if item["kind"].startswith("Cluster")]
    assert rights >= {("jobs", "create"), ("jobs", "delete"), ("jobs", "list"), ("jobs", "watch"), ("pods", "list"),
                      ("pods", "watch"), ("pods/log", "get")}  # fmt: skip


def test_the_library_of_prefects_worker_takes_the_template_and_its_settings(built, folder, monkeypatch):
    pytest.importorskip("prefect_kubernetes", reason="needs the extra `kubernetes`: pip install -e '.[kubernetes]'")
    from prefect.client.schemas.objects import Flow, FlowRun
    from prefect_kubernetes.settings import KubernetesSettings
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    for name, value in environment_of_the_worker(built).items():
        monkeypatch.setenv(name, value)
    settings = KubernetesSettings()
    assert settings.observer.namespaces == {"team"}
    assert settings.worker.api_auth_string_secret_key == "PREFECT_API_AUTH_STRING"
    template, flow = json.loads((folder / "jobs/work-pool.json").read_text()), Flow(id=uuid.uuid4(), name="schedule")
    filled = asyncio.run(KubernetesWorkerJobConfiguration.from_template_and_values(template, {"gpus": 4},
                                                                                   client=object()))
    filled.prepare_for_flow_run(FlowRun(id=uuid.uuid4(), flow_id=flow.id, name="Loud run!"), flow=flow)
    job = filled.job_manifest
    kubernetes_validate.validate(job, VERSION, strict=True)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 4 and container["args"][0] == "prefect"
    assert {"FEWSTEP_ADDRESS", "PREFECT__FLOW_RUN_ID"} <= {one["name"] for one in container["env"]}
    assert job["spec"]["template"]["metadata"]["labels"]["app"] == "run"
