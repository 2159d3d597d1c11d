"""Shapes of what `/v1/doctor` answers."""

from rest_framework import serializers

from api.doctor.findings import State
from api.serializers import Shape


class DoctorCheck(Shape):
    """A check of the doctor, and what it found."""

    check = serializers.CharField()
    state = serializers.ChoiceField(choices=[state.value for state in State])
    message = serializers.CharField()
    runbook = serializers.CharField(allow_blank=True, help_text="What to do; empty if there is nothing.")
    measured = serializers.DictField(help_text="The numbers by which it was judged.")


class Examination(Shape):
    """All checks, and the worst of their states."""

    status = serializers.ChoiceField(choices=[state.value for state in State])
    checks = DoctorCheck(many=True)
