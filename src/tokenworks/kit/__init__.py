"""kit: units, ids, clock, errors, settings, database, files, HTTP/1.1 client. No domain word in here."""
