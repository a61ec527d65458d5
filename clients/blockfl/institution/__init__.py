"""What an institution runs next to its data: the agent, its durable outbox, and the confined training process."""
