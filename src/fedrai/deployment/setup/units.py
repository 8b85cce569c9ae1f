"""systemd units and compose files. Both run `fedrai deploy start` on a folder."""

from __future__ import annotations

from fedrai.deployment.setup.settings import OFF, Deployment

HOME = "/opt/fedrai"
"""Where the units expect the virtual environment (`venv`) and the folders."""
CACHE = "/var/cache/fedrai"
"""The cache of all services on a machine, created by systemd (`CacheDirectory=`)."""


def service(here: Deployment, consortium: str) -> str:
    """A systemd unit for a server's or node's folder.

    Args:
        here: the machine's side.
        consortium: name; stands in the description.
    """
    server = here.role == "server"
    what = "SuperLink" if server else "SuperNode"
    folder = f"{HOME}/{'server' if server else 'node'}"
    return f"""\
# Copy this folder to {folder} (owner fedrai, mode 0700), install FedRAI in {HOME}/venv, then:
#   systemctl enable --now {folder}/fedrai-{what.lower()}.service
# Log: journalctl -u fedrai-{what.lower()}
# systemd creates the cache {CACHE} when the service first starts. To fetch a model into it:
#   sudo -u fedrai FEDRAI_CACHE={CACHE} {HOME}/venv/bin/fedrai assets fetch MODEL
[Unit]
Description=FedRAI {what} of {consortium}
After=network-online.target
Wants=network-online.target

[Service]
User=fedrai
UMask=0077
WorkingDirectory={folder}
ExecStart={HOME}/venv/bin/fedrai deploy start {folder}
Restart=on-failure
RestartSec=10
NoNewPrivileges=true
PrivateTmp=true
ProtectSystem=strict
ProtectHome=true
ReadWritePaths={folder}
CacheDirectory={CACHE.rpartition("/")[2]}
CacheDirectoryMode=0700
Environment=FEDRAI_CACHE={CACHE}
# Turns off Flower's telemetry, update check and run-time installation of dependencies.
{_environment("Environment=", "=")}

[Install]
WantedBy=multi-user.target
"""


def compose(here: Deployment, service_name: str) -> str:
    """A compose file for a server's or node's folder.

    Args:
        here: the machine's side.
        service_name: `superlink` or `supernode`.
    """
    server = here.role == "server"
    ports = f'    ports: ["{here.address.port}:{here.address.port}"]\n' if server else ""
    return f"""\
# FEDRAI_IMAGE: an image with FedRAI installed, for example one built from:
#   FROM python:3.12-slim
#   COPY . /src
#   RUN pip install -c /src/constraints.txt /src
# FEDRAI_UID: the owner of this folder (id -u); only the owner can read its files.
services:
  {service_name}:
    image: ${{FEDRAI_IMAGE:?an image with FedRAI installed}}
    user: ${{FEDRAI_UID:?the owner of this folder}}
    command: ["fedrai", "deploy", "start", "/deployment"]
    restart: on-failure
    read_only: true
    tmpfs: [/tmp]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    volumes: [".:/deployment"]
{ports}    environment:
      FEDRAI_CACHE: /deployment/cache
      HOME: /tmp
      # Turns off Flower's telemetry, update check and run-time installation of dependencies.
{_environment("      ", ": ", quote=True)}
"""


def _environment(before: str, between: str, *, quote: bool = False) -> str:
    mark = '"' if quote else ""
    return "\n".join(f"{before}{key}{between}{mark}{value}{mark}" for key, value in OFF.items())
