"""blobs: bytes by their SHA-256. `ports.py` says what a store can do; `adapters/disk.py` keeps them on this disk.

What is stored is never changed: the digest is the name. A blob is there completely or not at all.
"""
