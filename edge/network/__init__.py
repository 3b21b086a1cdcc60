"""What every door shares: listening sockets, TLS, and how much one caller may take."""
