"""The first start of a database in AWS: what its administrator, who is no superuser, is to do, by PostgreSQL's psql."""

import subprocess

import psycopg2
import pytest

from tests.closure import ROOT
from tests.postgres import Postgres, binary

SCRIPT = ROOT / "infra/kubernetes/overlays/aws/databases.sql"


@pytest.fixture
def server():
    """One as RDS makes it: a database and its administrator, whose password is no text for an address."""
    if binary("initdb") is None or binary("psql") is None:
        pytest.skip("no PostgreSQL here: `make postgres` installs it")
    made = Postgres()
    try:
        said(made, "fewstep", "CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'b'", password="c@nary-6f1e0b/pg")
        for statement in ("ALTER ROLE fewstep RENAME TO bootstrap", "CREATE DATABASE prefect",
                          "CREATE ROLE administrator LOGIN CREATEDB CREATEROLE PASSWORD 'a[]%#:7'",
                          "ALTER DATABASE prefect OWNER TO administrator"):  # fmt: skip
            said(made, "boss", statement, password="b")
        yield made
    finally:
        made.close()


def said(server, user: str, statement: str, database: str = "postgres", password: str = "") -> None:
    connection = psycopg2.connect(host="127.0.0.1", port=server.port, user=user, password=password, dbname=database)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


def test_the_servers_role_owns_both_databases_by_a_password_of_its_own(server):
    subprocess.run([binary("psql"), "-h", "127.0.0.1", "-p", str(server.port), "-U", "administrator", "-v",
                    "password=6f1e0b", "prefect"], stdin=SCRIPT.open(), check=True, env={"PGPASSWORD": "a[]%#:7"})
    for database in ("prefect", "mlflow"):
        said(server, "fewstep", "CREATE TABLE kept (id int)", database, "6f1e0b")
