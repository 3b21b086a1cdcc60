"""What the gateway says of itself: health, alerts, forecasts, and the check of its configuration."""
