"""The ``blockfl`` command."""
