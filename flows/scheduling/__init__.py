"""Runs at set times: schedules as files, the Prefect deployments made of them, and the process that serves them."""
