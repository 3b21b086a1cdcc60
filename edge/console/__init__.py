"""The gateway's face for machines and browsers."""
