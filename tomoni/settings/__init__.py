"""One module a method: its `Config` (frozen) and its `phases`. Read by the command line, the planner and the method."""
