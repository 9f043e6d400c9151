import base64
import os
import re
import subprocess
import sys
from ipaddress import ip_address, ip_network

import pytest

from tests.deployment import files

EXACT = re.compile(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-[a-z]+[\d.]*)?")
COMMANDS = {
    "migrate": "python manage.py migrate",
    "web": "gunicorn config.wsgi",
    "worker": "celery --app=config worker --queues=critical,default,bulk",
    "beat": "celery --app=config beat",
    "flower": "celery --app=config flower",
}
THIRD_PARTY = ("proxy", "postgres", "valkey", "mailpit")


def test_the_file_fits_the_schema_of_compose() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(files.COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_all_services_are_defined() -> None:
    assert set(files.services()) == {*COMMANDS, *THIRD_PARTY}
    assert set(files.ours()) == set(COMMANDS)


def test_third_party_images_have_exact_versions() -> None:
    images = [files.interpolate(files.services()[name]["image"], {}) for name in THIRD_PARTY]
    assert [image for image in images if not EXACT.fullmatch(image)] == []


def test_every_image_can_be_replaced_by_a_variable() -> None:
    replaced = dict.fromkeys(files.IMAGES, "registry.example/mine:1.0")
    images = {files.interpolate(files.services()[name]["image"], replaced) for name in THIRD_PARTY}
    assert images == {"registry.example/mine:1.0"}
    assert all(set(service["build"]["args"]) <= set(files.IMAGES) for service in files.ours().values())


@pytest.mark.parametrize(("service", "command"), COMMANDS.items())
def test_the_commands_are_those_of_the_contract(service: str, command: str) -> None:
    assert " ".join(files.services()[service]["command"]).startswith(command)


def test_published_ports_are_the_usual_ones_on_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in files.services().items() if "ports" in service}
    assert {name: [files.interpolate(port, {}) for port in ports] for name, ports in published.items()} == {
        "proxy": ["127.0.0.1:8000:8080"],
        "mailpit": ["127.0.0.1:8025:8025"],
    }


def test_published_ports_follow_their_variables() -> None:
    env_file = {"WEB_PORT": "1", "INBOX_PORT": "2"}
    ports = [
        files.interpolate(service["ports"][0], env_file) for service in files.services().values() if "ports" in service
    ]
    assert sorted(port.split(":")[1] for port in ports) == ["1", "2"]


def test_web_believes_the_proxy_and_the_proxy_believes_the_gateway() -> None:
    proxy = files.services()["proxy"]["networks"]["default"]["ipv4_address"]
    (network,) = files.networks()["default"]["ipam"]["config"]
    assert files.environment("web", files.SECRETS)["TRUSTED_PROXIES"] == proxy
    assert ip_address(proxy) in ip_network(network["subnet"])
    assert ip_address(proxy) not in ip_network(network["ip_range"])  # Docker gives those to other containers
    assert f"set_real_ip_from {network['gateway']};" in files.NGINX.read_text()
    assert f"\n        {network['gateway']} 1;" in files.NGINX.read_text()


def test_the_proxy_passes_on_to_the_servers_of_the_file() -> None:
    proxy = files.services()["proxy"]
    assert [volume.split(":")[0] for volume in proxy["volumes"]] == [f"./{files.NGINX.relative_to(files.ROOT)}"]
    assert re.findall(r"set \$\w+ (\w+):(\d+);", files.NGINX.read_text()) == [("web", "8000"), ("flower", "5555")]
    assert {"web", "flower"} < set(files.services())
    assert "--url-prefix=flower" in files.services()["flower"]["command"]


def test_the_proxy_knows_the_login_of_flower() -> None:
    *shell, script = files.services()["proxy"]["command"]
    before, nginx = files.interpolate(script, {}).split("exec ")
    environment = {"PATH": os.environ["PATH"], **files.environment("proxy", files.SECRETS)}
    done = subprocess.run(
        [*shell, f'{before} printf %s "$FLOWER_LOGIN"'], env=environment, capture_output=True, check=True
    )
    assert nginx == "/docker-entrypoint.sh nginx -c /tmp/nginx.conf"
    assert base64.b64decode(done.stdout).decode() == files.SECRETS["FLOWER_BASIC_AUTH"]
    assert set(re.findall(r"\$\{?([A-Z_]+)", files.NGINX.read_text())) == {"FLOWER_LOGIN"}


def test_the_admin_links_to_flower_on_the_same_site() -> None:
    assert files.environment("web", files.SECRETS)["FLOWER_URL"] == "/flower/"


def test_the_file_contains_no_secret() -> None:
    for secret in files.SECRETS:
        for service in files.services().values():
            value = (service.get("environment") or {}).get(secret)
            assert value is None or value.startswith("${" + secret + ":?")


@pytest.mark.parametrize("secret", files.SECRETS)
def test_no_service_starts_without_a_secret(secret: str) -> None:
    env_file = {name: value for name, value in files.SECRETS.items() if name != secret}
    with pytest.raises(KeyError, match=secret):
        for service in files.services():
            files.environment(service, env_file)


@pytest.mark.parametrize("service", files.ours())
def test_the_settings_need_only_three_secrets(service: str) -> None:
    done = files.load_settings(files.environment(service, files.SECRETS))
    assert done.returncode == 0, done.stderr


def test_every_service_of_ours_has_the_same_environment() -> None:
    environments = [files.environment(service, files.SECRETS) for service in files.ours()]
    assert all(environment == environments[0] for environment in environments)


def test_every_variable_is_used() -> None:
    known = files.read_by_the_project().union(*files.READ_BY_OTHERS.values())
    for service in files.services().values():
        assert set(service.get("environment") or {}) <= known


def test_every_setting_can_be_set_in_env() -> None:
    local_only = {"DEBUG", "ENV_FILES", "WEB_PORT", "PORT"}
    assert files.read_by_the_project() - set(files.ours()["web"]["environment"]) == local_only


def test_the_passwords_of_database_and_url_are_the_same() -> None:
    url = files.environment("web", files.SECRETS)["DATABASE_URL"]
    postgres = files.environment("postgres", files.SECRETS)
    assert url == "postgres://{POSTGRES_USER}:{POSTGRES_PASSWORD}@postgres:5432/{POSTGRES_DB}".format(**postgres)


def test_all_services_wait_for_the_migrations_and_have_a_health_check() -> None:
    for name, service in files.services().items():
        assert name == "migrate" or "healthcheck" in service
        if name in files.ours() and name != "migrate":
            assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_services_restart_but_the_migrations_run_once() -> None:
    assert files.services()["migrate"]["restart"] == "no"
    assert {service["restart"] for name, service in files.services().items() if name != "migrate"} == {"unless-stopped"}


def test_containers_have_minimal_privileges() -> None:
    for name, service in files.services().items():
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert service.get("read_only") or name == "postgres"
        assert not service.get("privileged")


def test_a_worker_gets_time_to_finish_its_mails() -> None:
    assert files.services()["worker"]["stop_grace_period"] == "30s"


def test_valkey_persists_all_data() -> None:
    command = " ".join(files.services()["valkey"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_data_is_in_volumes() -> None:
    for name in ("postgres", "valkey", "mailpit"):
        assert files.services()[name]["volumes"]
