"""When and where stages run: Prefect flows, deployments, the command line."""
