"""The gateway's HTTP server: `server` answers machines and browsers; the other modules are the pages for people."""
