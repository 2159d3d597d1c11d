#!/usr/bin/env python
"""DuckMesh's command line: `manage.py help` lists the commands."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "duckmesh.settings")
    from django.core.management import execute_from_command_line

    from duckmesh.kernel.acting import act_for_all_by_default

    act_for_all_by_default()
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
