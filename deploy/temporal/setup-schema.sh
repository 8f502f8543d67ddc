#!/bin/sh
# Creates Temporal's two databases and brings their schemas up to the version of this image. Safe to run again: what exists
# is kept, and only missing versions are applied. The connection comes from SQL_PLUGIN, SQL_HOST, SQL_PORT, SQL_USER and
# SQL_PASSWORD, which temporal-sql-tool reads itself, so that the password is in no command line.
set -eu

: "${SQL_HOST:?must name the PostgreSQL host}"
: "${SQL_PASSWORD:?must hold the PostgreSQL password}"

migrate() {
    database=$1
    schema=/etc/temporal/schema/postgresql/v12/$2/versioned

    echo "database $database"
    temporal-sql-tool --database "$database" create-database --defaultdb postgres
    temporal-sql-tool --database "$database" setup-schema --version 0.0
    temporal-sql-tool --database "$database" update-schema --schema-dir "$schema"
}

migrate temporal temporal
migrate temporal_visibility visibility
