-- Given to psql as the administrator of RDS: the role that the servers log in as, and whose the databases are.
\set ON_ERROR_STOP on
CREATE ROLE fewstep LOGIN PASSWORD :'password';
GRANT fewstep TO CURRENT_USER;
CREATE DATABASE mlflow OWNER fewstep;
ALTER DATABASE prefect OWNER TO fewstep;
