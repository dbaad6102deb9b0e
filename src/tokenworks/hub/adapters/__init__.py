"""Adapters of the hub: file formats, and where the first model comes from."""
