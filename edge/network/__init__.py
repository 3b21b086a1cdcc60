"""The base of every door: listening sockets, TLS, and how much one caller may take."""
