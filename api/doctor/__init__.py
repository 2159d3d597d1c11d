"""`manage.py doctor` and `/v1/doctor`: small checks of everything that an acknowledgement and an answer rest on."""
