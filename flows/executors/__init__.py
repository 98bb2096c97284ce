"""Where the units of work of a stage run. Every executor is a `tasks.engine.runner.Execute`; the one for the threads of a
process is `tasks.engine.runner.in_threads`, the one for Prefect's tasks is here."""
