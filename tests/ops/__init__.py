"""With a real Prometheus and Alertmanager: `make test-ops`."""
