"""What runs a stage and makes its result trustworthy: graph, key, plan, runner, manifest, publishing."""
