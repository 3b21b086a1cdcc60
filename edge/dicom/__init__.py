"""The wire and the objects that travel on it: PDUs, DIMSE commands, associations, headers. Knows no store."""
