#!/bin/sh
# Makes an edge agent a service of this Raspberry Pi, Jetson or other Linux machine, out of this clone and a kit of
# `cloud-server provision`. Doing it again updates the software and changes nothing else.
set -eu

usage() {
    cat << EOF
usage: sudo $0 --kit DIRECTORY [--source SOURCE]     install, or update
       sudo $0 --uninstall [--purge]                 remove; --purge: settings, models and user, too

  --kit DIRECTORY   what 'cloud-server provision' made for this device: agent.toml, ca.crt, password
  --source SOURCE   the camera, if agent.toml names none [camera:0]

example: sudo $0 --kit cam1 --source camera:0
EOF
}

fail() {
    echo "install.sh: $1" >&2
    exit 2
}

here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$here/../.." && pwd)
unit=/etc/systemd/system/cachenet-agent.service
kit='' source=camera:0 uninstall='' purge=''
while [ $# -gt 0 ]; do
    case $1 in
        --kit | --source)
            [ $# -gt 1 ] || fail "$1 wants a value; see --help"
            if [ "$1" = --kit ]; then kit=$2; else source=$2; fi
            shift
            ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        -h | --help) usage && exit 0 ;;
        *) fail "$1 is no option; see --help" ;;
    esac
    shift
done
[ "$(id -u)" = 0 ] || fail "only root may do this; say sudo $0 ..."

# In an image that is only being made there is no systemd to tell.
running() { [ -d /run/systemd/system ]; }

if [ -n "$uninstall" ]; then
    if running; then systemctl disable --now cachenet-agent || true; else systemctl disable cachenet-agent || true; fi
    rm -rf "$unit" "$unit.d" /opt/cachenet
    if running; then systemctl daemon-reload; fi
    if [ -n "$purge" ]; then
        rm -rf /etc/cachenet /var/lib/cachenet
        if id cachenet > /dev/null 2>&1; then userdel cachenet; fi
    fi
    echo "The agent is gone${purge:+, and all that it kept}."
    exit 0
fi
[ -z "$purge" ] || fail "--purge goes with --uninstall"
[ -n "$kit" ] || fail "give --kit DIRECTORY, as 'cloud-server provision' has made it; see --help"
for file in agent.toml ca.crt password; do
    [ -f "$kit/$file" ] || fail "$kit has no $file; is it a kit of 'cloud-server provision'?"
done
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "Python 3.10 or later is needed as python3"
python3 -c 'import ensurepip, venv' 2> /dev/null || fail "python3 lacks venv: sudo apt-get install python3-venv"

echo "Installing the software into /opt/cachenet"
[ -x /opt/cachenet/bin/pip ] || python3 -m venv /opt/cachenet
/opt/cachenet/bin/pip install --quiet --disable-pip-version-check --constraint "$clone/constraints.txt" "$clone"
# Another change of the same version is an update, too.
/opt/cachenet/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$clone"

id cachenet > /dev/null 2>&1 ||
    useradd --system --user-group --home-dir /var/lib/cachenet --shell /usr/sbin/nologin cachenet
if getent group video > /dev/null; then usermod --append --groups video cachenet; fi

install -d -m 750 -g cachenet /etc/cachenet
for file in "$kit"/*; do
    to=/etc/cachenet/$(basename "$file")
    if [ "$(basename "$file")" = agent.toml ] && [ -e "$to" ]; then
        echo "$to is kept as it is"
    else
        install -m 640 -g cachenet "$file" "$to"
    fi
done
settings=/etc/cachenet/agent.toml
if ! grep -Eq '^[[:space:]]*(source[[:space:]]*=|\[\[camera\]\])' "$settings"; then
    printf 'source = "%s"\n' "$source" | cat - "$settings" > "$settings.new"
    chmod 640 "$settings.new" && chgrp cachenet "$settings.new" && mv "$settings.new" "$settings"
fi
install -d -m 700 -o cachenet -g cachenet /var/lib/cachenet

install -m 644 "$here/cachenet-agent.service" "$unit"
if [ -e /etc/nv_tegra_release ]; then
    install -D -m 644 "$here/jetson.conf" "$unit.d/jetson.conf"
fi
if running; then
    systemctl daemon-reload
    systemctl stop cachenet-agent # a device has one connection, and the doctor wants it for a moment
fi
runuser -u cachenet -- env CACHENET_STORE=/var/lib/cachenet /opt/cachenet/bin/edge-agent doctor --config "$settings" ||
    echo "The doctor has found a problem; the agent is started all the same and tries again until it is solved." >&2
systemctl enable --quiet cachenet-agent
if running; then
    systemctl restart cachenet-agent
    echo "The agent runs. What it says: journalctl -u cachenet-agent -f"
else
    echo "systemd does not run here; the agent starts with the machine."
fi
