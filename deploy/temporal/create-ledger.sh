#!/bin/sh
# Makes the role and the database of the worker's ledger, both called `remit`, and sets the role's password. Safe to run again:
# what exists is kept. psql reads PGHOST, PGUSER, PGPASSWORD and PGDATABASE itself; the ledger's password reaches it through the
# environment too, so that no password is in a command line.
set -eu

: "${PGHOST:?must name the PostgreSQL host}"
: "${PGPASSWORD:?must hold the password of the administrator}"
: "${LEDGER_PASSWORD:?must hold the password of the role to make}"

psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 <<'SQL'
\getenv password LEDGER_PASSWORD
SELECT 'CREATE ROLE remit LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'remit') \gexec
SET log_statement = 'none';
ALTER ROLE remit PASSWORD :'password';
SELECT 'CREATE DATABASE remit OWNER remit' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'remit') \gexec
REVOKE ALL ON DATABASE remit FROM PUBLIC;
SQL
echo "done: database remit"
