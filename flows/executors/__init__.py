"""Where the units of work of a stage run: `compute.on` names an engine, which does one unit at a time for each of
`width` threads that wait for it. The threads are Prefect's tasks, so that a run looks alike on every engine."""
