"""cluster/adapters: processes of this machine, and processes behind a unix socket."""
