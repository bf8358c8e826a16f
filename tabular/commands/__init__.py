"""The commands of ``python -m tabular``, one module each: ``add(commands)`` declares one, its ``run`` answers."""
