"""A channel: its configuration, its blocks, a new one, and the changes of a running one."""
