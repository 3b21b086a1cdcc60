"""The gateway's face for machines and browsers: `server` serves both, and the other files are pages for people."""
