#!/bin/sh
# What the tests need beyond Python: a virtual environment's tools, a Postgres server to start and stop, and a browser;
# with the argument `venv` the first alone. Installs what is missing with apt-get when run as root; says what to install otherwise.
set -eu
missing=""
"${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ "${1:-}" != venv ]; then
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
    command -v chromium >/dev/null || missing="$missing chromium"
fi
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Please install:$missing" >&2
    exit 1
fi
echo "Installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 - a list of package names
apt-get install --yes -qq --no-install-recommends $missing >/dev/null
