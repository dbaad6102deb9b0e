"""region: what a region lives from. Control makes a snapshot (keys, deployments, replicas); doors follow it by a
long poll and go on serving from the last one while control is away. Doors ship their journals by the second call.
"""
