"""The gateway's process: its parts and what joins them, its life, its housekeeping, what people may ask of it."""
