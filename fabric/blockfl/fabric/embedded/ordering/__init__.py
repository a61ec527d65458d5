"""How the embedded node orders, commits and recovers."""
