#!/bin/sh
# Installs the edge agent as a service on a Raspberry Pi, a Jetson or another Linux machine, from this clone and the
# device's credentials from `cloud-server provision`. A second run updates the software only.
set -eu

usage() {
    cat << EOF
usage: sudo $0 --credentials DIRECTORY [--source SOURCE]     install or update
       sudo $0 --uninstall [--purge]                         remove; --purge: settings, models and user, too

  --credentials DIRECTORY   credentials of this device from 'cloud-server provision': agent.toml, ca.crt, password
  --source SOURCE           camera of the agent, if agent.toml has no source [camera:0]

example: sudo $0 --credentials cam1 --source camera:0
EOF
}

fail() {
    echo "install.sh: $1" >&2
    exit 2
}

here=$(cd "$(dirname "$0")" && pwd)
clone=$(cd "$here/../.." && pwd)
unit=/etc/systemd/system/cachenet-agent.service
credentials='' source=camera:0 uninstall='' purge=''
while [ $# -gt 0 ]; do
    case $1 in
        --credentials | --source)
            [ $# -gt 1 ] || fail "$1 needs a value; see --help"
            if [ "$1" = --credentials ]; then credentials=$2; else source=$2; fi
            shift
            ;;
        --kit) fail "--kit is now --credentials" ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        -h | --help) usage && exit 0 ;;
        *) fail "unknown option $1; see --help" ;;
    esac
    shift
done
[ "$(id -u)" = 0 ] || fail "this needs root rights: sudo $0 ..."

# While an image is built, systemd does not run.
running() { [ -d /run/systemd/system ]; }

if [ -n "$uninstall" ]; then
    if running; then systemctl disable --now cachenet-agent || true; else systemctl disable cachenet-agent || true; fi
    rm -rf "$unit" "$unit.d" /opt/cachenet
    if running; then systemctl daemon-reload; fi
    if [ -n "$purge" ]; then
        rm -rf /etc/cachenet /var/lib/cachenet
        if id cachenet > /dev/null 2>&1; then userdel cachenet; fi
    fi
    echo "Removed the agent${purge:+, its settings, its models and its user}."
    exit 0
fi
[ -z "$purge" ] || fail "--purge needs --uninstall"
[ -n "$credentials" ] || fail "give --credentials DIRECTORY, from 'cloud-server provision'; see --help"
for file in agent.toml ca.crt password; do
    [ -f "$credentials/$file" ] || fail "$credentials has no $file; is the directory from 'cloud-server provision'?"
done
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "Python 3.10 or later is needed as python3"
python3 -c 'import ensurepip, venv' 2> /dev/null || fail "python3 lacks venv: sudo apt-get install python3-venv"

echo "Installing the software into /opt/cachenet"
[ -x /opt/cachenet/bin/pip ] || python3 -m venv /opt/cachenet
software=$clone
[ ! -f "$credentials/root.json" ] || software="${clone}[signed]"
/opt/cachenet/bin/pip install --quiet --disable-pip-version-check --constraint "$clone/constraints.txt" "$software"
# The clone may have changed without a new version.
/opt/cachenet/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$clone"

id cachenet > /dev/null 2>&1 ||
    useradd --system --user-group --home-dir /var/lib/cachenet --shell /usr/sbin/nologin cachenet
if getent group video > /dev/null; then usermod --append --groups video cachenet; fi

install -d -m 750 -g cachenet /etc/cachenet
for file in "$credentials"/*; do
    to=/etc/cachenet/$(basename "$file")
    if [ "$(basename "$file")" = agent.toml ] && [ -e "$to" ]; then
        echo "$to stays unchanged"
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
    systemctl stop cachenet-agent # a device has one connection, and the doctor needs it
fi
runuser -u cachenet -- env CACHENET_STORE=/var/lib/cachenet /opt/cachenet/bin/edge-agent doctor --config "$settings" ||
    echo "The doctor found a problem. The agent starts anyway and retries until the problem is solved." >&2
systemctl enable --quiet cachenet-agent
if running; then
    systemctl restart cachenet-agent
    echo "The agent runs. Its log: journalctl -u cachenet-agent -f"
else
    echo "systemd does not run; the agent starts when the machine starts."
fi
