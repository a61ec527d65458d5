"""The process of a committee member: judges, closes, sums and publishes."""
