"""A process that runs retention once over all tenants, on the database of its environment: `… ROOT`."""

if __name__ == "__main__":
    import sys
    from pathlib import Path

    import django

    django.setup()

    from tests.keeping import retain
    from tests.lake import Lake

    print(retain(Lake(Path(sys.argv[1]))), flush=True)
