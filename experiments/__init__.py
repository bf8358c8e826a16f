"""The command that runs sweeps, and the reports it writes."""
