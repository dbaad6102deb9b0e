"""Adapters of blobs: where the bytes lie."""
