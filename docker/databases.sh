#!/bin/sh
# PostgreSQL's first start: an account and a database each for Prefect and for MLflow, which see nothing of each other.
set -eu
for name in prefect mlflow; do
    password=$(cat "${SECRETS:-/run/secrets}/${name}_db_password")
    psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --quiet <<SQL
CREATE ROLE $name LOGIN PASSWORD '$password';
CREATE DATABASE $name OWNER $name;
REVOKE ALL ON DATABASE $name FROM PUBLIC;
SQL
done
