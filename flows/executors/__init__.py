"""Where the units of work of a stage run. Every executor is a `tasks.engine.runner.Execute`: the threads of a process
are `tasks.engine.runner.in_threads`, the tasks of Prefect are here."""
