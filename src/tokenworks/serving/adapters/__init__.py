"""serving/adapters: one file per engine."""
