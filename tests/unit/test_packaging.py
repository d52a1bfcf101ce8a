"""What engines are given to run us with: manifests that the published schemas accept, units that name real commands."""

import configparser
import functools
import importlib
import json
import operator
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
import yaml  # type: ignore[import-untyped]  # its types are a package of their own

from enarx import __version__, toml
from enarx.drawbridge.config import Config as DrawbridgeConfig
from enarx.drawbridge.config import Flags as DrawbridgeFlags
from enarx.keep.backends import inside, sevguest, tsm
from enarx.keep.backends.hosts import Roots
from enarx.steward.config import Config as StewardConfig
from enarx.steward.config import Flags as StewardFlags

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
KUBERNETES = "1.31"  # a version that clusters run
MANIFESTS = sorted((PACKAGING / "kubernetes").glob("*.yaml"))
CHART = PACKAGING / "helm" / "enarx"
TEMPLATES = sorted((CHART / "templates").glob("*.yaml"))
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))
PROGRAMS = {"enarx": "enarx.cli.main", "steward": "enarx.cli.steward", "drawbridge": "enarx.cli.drawbridge"}


def documents() -> Iterator[dict[str, Any]]:
    for file in MANIFESTS:
        yield from yaml.safe_load_all(file.read_text())


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for document in documents():
        spec = document.get("spec", {})
        template = spec.get("template") or spec.get("jobTemplate", {}).get("spec", {}).get("template")
        if template is not None:
            yield document["metadata"]["name"], template["spec"]


@pytest.mark.parametrize("document", list(documents()), ids=lambda item: f"{item['kind']} {item['metadata']['name']}")
def test_the_published_schema_accepts_every_manifest(document: dict[str, Any]) -> None:
    """Strictly: no member that the schema does not know."""
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize(("name", "pod"), list(pods()), ids=lambda item: item if isinstance(item, str) else "")
def test_a_pod_can_do_no_more_than_it_needs(name: str, pod: dict[str, Any]) -> None:
    """No token of the cluster's, no escalation, no writable root, memory bounded."""
    assert pod["automountServiceAccountToken"] is False, name
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert not any("value" in variable for variable in container.get("env", ())), "a secret in the clear"


@pytest.mark.parametrize("name", ["steward", "drawbridge"])
def test_a_service_has_probes_and_a_disruption_budget(name: str) -> None:
    """Liveness and readiness are two questions, and one replica always stays."""
    pod = dict(pods())[name]
    (container,) = pod["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    budgets = [document for document in documents() if document["kind"] == "PodDisruptionBudget"]
    assert name in {budget["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] for budget in budgets}


def test_the_configurations_in_the_manifests_are_read() -> None:
    """What a ConfigMap holds is what the programs understand."""
    maps = {item["metadata"]["name"]: item["data"] for item in documents() if item["kind"] == "ConfigMap"}
    steward = StewardConfig.parse(
        maps["steward"]["steward.toml"], source="steward.toml", base=Path(), flags=StewardFlags()
    )
    assert steward.policy.configured == {"snp"}
    text = maps["drawbridge"]["drawbridge.toml"].replace('ca = "/config/steward-ca.pem"', 'ca = "ca.pem"')
    parsed = toml.parse(text, source="drawbridge.toml")
    assert parsed.string("store") == "s3://enarx"
    assert DrawbridgeConfig is not None
    assert DrawbridgeFlags is not None


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The chart with these values: everything in its templates is a value as JSON, and nothing is decided there."""

    def value(found: re.Match[str]) -> str:
        return json.dumps(functools.reduce(operator.getitem, found[1].split("."), values))

    pattern, texts = r"\{\{ \.Values\.([\w.]+) \| toJson \}\}", [file.read_text() for file in TEMPLATES]
    assert not [text for text in texts if "{{" in re.sub(pattern, "", text)], "a template that only Helm understands"
    return [document for text in texts for document in yaml.safe_load_all(re.sub(pattern, value, text))]


def over(defaults: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """Values over others, member by member."""
    both = {name: over(defaults[name], each) for name, each in changed.items() if isinstance(each, dict)}
    return {**defaults, **changed, **both}


def sorted_by_name(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whatever order they came in; a member that is null is none."""

    def without_nulls(node: Any) -> Any:  # Any: JSON
        if isinstance(node, dict):
            return {name: without_nulls(each) for name, each in node.items() if each is not None}
        return [without_nulls(each) for each in node] if isinstance(node, list) else node

    return sorted(map(without_nulls, found), key=lambda item: (item["kind"], item["metadata"]["name"]))


def test_the_chart_is_the_manifests_with_values() -> None:
    """What it says unasked is what `kubectl apply` would: one description of each service, in two forms."""
    plain = [item for file in MANIFESTS if file.stem != "keep" for item in yaml.safe_load_all(file.read_text())]
    assert sorted_by_name(rendered(VALUES)) == sorted_by_name(plain)
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert VALUES["image"] == f"enarx:{__version__}"


CHANGED: dict[str, Any] = {
    "image": "registry.example/enarx@sha256:" + "ab" * 32,
    "steward": {
        "replicas": 5,
        "storageClass": "shared",
        "configuration": 'origin = "https://a.example"\n# <&>: "{{ }}"\n',
    },
    "drawbridge": {"stewardCa": "-----BEGIN CERTIFICATE-----\n", "resources": {"limits": {"memory": "1Gi"}}},
}


def test_changed_values_arrive_as_they_are() -> None:
    """Of any text, and the schema accepts the result."""
    found = {(item["kind"], item["metadata"]["name"]): item for item in rendered(over(VALUES, CHANGED))}
    for item in found.values():
        kubernetes_validate.validate(item, KUBERNETES, strict=True)
    assert found["ConfigMap", "steward"]["data"]["steward.toml"] == CHANGED["steward"]["configuration"]
    assert found["ConfigMap", "drawbridge"]["data"]["steward-ca.pem"] == CHANGED["drawbridge"]["stewardCa"]
    pod = found["Deployment", "steward"]["spec"]
    assert (pod["replicas"], pod["template"]["spec"]["containers"][0]["image"]) == (5, CHANGED["image"])
    assert found["PersistentVolumeClaim", "steward"]["spec"]["storageClassName"] == "shared"
    if (helm := shutil.which("helm")) is not None:
        command = [helm, "template", "release", str(CHART), "--values", "-"]
        done = subprocess.run(command, input=yaml.safe_dump(CHANGED), capture_output=True, text=True, check=True)
        assert sorted_by_name(yaml.safe_load_all(done.stdout)) == sorted_by_name(found.values())


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line that an engine is told to run."""
    for file in UNITS:
        unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
        unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
        unit.read_string(file.read_text())
        for key in ("ExecStartPre", "ExecStart"):
            if key in unit["Service"]:
                yield file.name, shlex.split(unit["Service"][key].removeprefix("/usr/bin/env "))
    for name, pod in pods():
        for container in pod["containers"]:
            yield name, container["args"]


@pytest.mark.parametrize(
    ("where", "words"), list(commands()), ids=lambda item: item if isinstance(item, str) else item[1]
)
def test_every_command_and_option_exists(where: str, words: list[str]) -> None:
    """A unit that names an option of yesterday does not start tomorrow."""
    program, *rest = words
    command: click.Command = importlib.import_module(PROGRAMS[program]).main
    context = click.Context(command)
    while isinstance(command, click.Group):
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None, f"{where}: {words}"
        command = found
    known = {option for parameter in command.params for option in parameter.opts}
    used = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert used <= known, f"{where}: {sorted(used - known)}"


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_gains_no_privileges(unit: Path) -> None:
    """Whatever it serves, it gets no new rights."""
    assert "NoNewPrivileges=yes" in unit.read_text()


def test_the_timer_may_ask_the_chip_and_shares_its_cache_with_keeps() -> None:
    """Whatever knows the chip can be opened, and the directory has one owner, or systemd moves it to and fro."""
    units = {file.name: file.read_text().splitlines() for file in UNITS}
    cache, keep = units["enarx-cache.service"], units["enarx-keep@.service"]
    opened = {line.partition("=")[2].split()[0] for line in cache if line.startswith("DeviceAllow=")}
    assert opened == {str(Roots().dev / "sev"), str(sevguest.DEVICE), str(inside.TPM)}
    written = {line.partition("=")[2].removeprefix("-") for line in cache if line.startswith("ReadWritePaths=")}
    assert any(tsm.ROOT.is_relative_to(path) for path in written)
    assert not {"PrivateDevices=yes", "ProtectKernelTunables=yes"} & set(cache), "it would see no device, or no report"
    for unit in (cache, keep):
        assert "CacheDirectory=enarx" in unit
        assert not [line for line in unit if line.startswith(("DynamicUser=", "User="))]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_every_unit_and_finds_it_shut(tmp_path: Path) -> None:
    """No unknown or misplaced setting; and what each may still do is rated OK or better by systemd itself."""
    copies = [Path(shutil.copy(unit, tmp_path)) for unit in [*UNITS, *UNITS[0].parent.glob("*.timer")]]
    verify = ["systemd-analyze", "verify", "--man=no", *map(str, copies)]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    told = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert not [line for line in told if "is not executable" not in line], done.stderr  # what this machine lacks
    services = [copy for copy in copies if copy.suffix == ".service"]
    rate = ["systemd-analyze", "security", "--offline=yes", "--threshold=45", "--no-pager", *map(str, services)]
    done = subprocess.run(rate, capture_output=True, text=True, timeout=60, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd rates running units alone")
    assert done.returncode == 0, [line for line in done.stdout.splitlines() if "Overall" in line]
