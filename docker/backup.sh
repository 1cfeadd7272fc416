#!/bin/sh
# Copies of both databases, each whole or not there; the newest KEEP of each stay. Every EVERY_S seconds, or once.
#   backup.sh [once]                 backup.sh restore FILE        # FILE: as in prefect-20261126T020000.dump
set -eu
folder=${BACKUPS:-/backups}
PGPASSWORD=${PGPASSWORD:-$(cat "${PGPASSWORD_FILE:-/run/secrets/postgres_password}")}
export PGPASSWORD

copy() {
    for name in prefect mlflow; do
        file=$folder/$name-$(date -u +%Y%m%dT%H%M%S).dump
        pg_dump --format custom --file "$file.partial" "$name"
        pg_restore --list "$file.partial" > /dev/null # it can be read
        mv "$file.partial" "$file"
        find "$folder" -maxdepth 1 -name "$name-*.dump" | sort -r | tail -n "+$((${KEEP:-14} + 1))" | xargs -r rm --
        echo "$file"
    done
}

restore() {
    name=$(basename "$1" | sed 's/-[0-9T]*\.dump$//')
    psql --quiet --set ON_ERROR_STOP=1 --dbname postgres \
        --command "DROP DATABASE IF EXISTS $name WITH (FORCE)" --command "CREATE DATABASE $name OWNER $name"
    pg_restore --exit-on-error --dbname "$name" "$1"
    echo "$name is as it was in $1"
}

case ${1:-} in
once) copy ;;
restore) restore "$2" ;;
*) while :; do
    copy
    sleep "${EVERY_S:-86400}"
done ;;
esac
