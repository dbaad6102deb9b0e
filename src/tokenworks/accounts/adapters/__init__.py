"""Adapters of accounts: the file that holds the administrator's key."""
