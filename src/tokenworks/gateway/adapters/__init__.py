"""Outside systems that the gateway speaks to: control."""
