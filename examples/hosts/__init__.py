"""Seven machines on one: every host a network, a user, processes and a directory of its own."""
