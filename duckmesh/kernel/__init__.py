"""The floor every plane stands on: configuration, errors, time, logs, metrics, failpoints. Imports nothing of ours."""
