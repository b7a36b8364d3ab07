"""What those who run the server ask: whether it lives, how busy it is, and its figures for Prometheus."""
