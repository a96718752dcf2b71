#!/bin/bash
# The official image's contract: POSTGRES_USER, POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, POSTGRES_DB, PGDATA, and
# /docker-entrypoint-initdb.d/*.{sql,sh} on the first start.
set -euo pipefail

if [[ $# -eq 0 || $1 == -* ]]; then
  set -- postgres "$@"
fi
if [[ $1 != postgres ]]; then
  exec "$@"
fi

user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}

initialise() {
  # In a directory aside, moved into place when complete: a kill half-way leaves nothing that looks like a database.
  local new=$PGDATA/.new
  local password=${POSTGRES_PASSWORD:-}
  if [[ -z $password && -n ${POSTGRES_PASSWORD_FILE:-} ]]; then
    password=$(<"$POSTGRES_PASSWORD_FILE")
  fi
  if [[ -z $password ]]; then
    echo "POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE must be set for the first start" >&2
    exit 1
  fi
  rm -rf "$new"
  initdb --pgdata="$new" --username="$user" --pwfile=<(printf '%s\n' "$password") --encoding=UTF8 --locale=C.UTF-8 \
    --auth-local=trust --auth-host=scram-sha-256
  echo "host all all all scram-sha-256" >> "$new/pg_hba.conf"
  echo "listen_addresses = '*'" >> "$new/postgresql.conf"

  pg_ctl --pgdata="$new" --wait --options="-c listen_addresses=''" start
  local psql=(psql --no-psqlrc --set=ON_ERROR_STOP=1 --username="$user")
  if [[ $database != postgres ]]; then
    "${psql[@]}" --dbname=postgres --set=database="$database" <<< 'CREATE DATABASE :"database";'
  fi
  local file
  for file in /docker-entrypoint-initdb.d/*; do
    case $file in
      *.sql) "${psql[@]}" --dbname="$database" --file="$file" ;;
      *.sh) POSTGRES_USER=$user POSTGRES_DB=$database bash "$file" ;;
    esac
  done
  pg_ctl --pgdata="$new" --wait --mode=fast stop

  # PG_VERSION last: it is what makes the directory a database.
  find "$new" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv --target-directory="$PGDATA" {} +
  mv "$new/PG_VERSION" "$PGDATA/"
  rmdir "$new"
}

mkdir -p "$PGDATA"
# The server refuses a directory that others may read. A volume's own root may belong to root: use a directory in it.
chmod 0700 "$PGDATA"
if [[ ! -s $PGDATA/PG_VERSION ]]; then
  initialise
fi
exec "$@"
