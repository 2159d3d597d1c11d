"""A backup, its removal or a restore in a process of its own, for tests that kill it.

`python -m tests.backer backup|drop|restore LAKE DIR [NAME]`, on the database of DUCKMESH_DATABASE_URL.
"""

import sys
from pathlib import Path

import django

if __name__ == "__main__":
    django.setup()
    from maintenance.backup.keeping import drop_backup
    from tests.backups import back_up, restore
    from tests.lake import Lake

    act, home, root, *names = sys.argv[1:]
    lake = Lake(Path(home))
    match act:
        case "backup":
            back_up(lake, Path(root), with_data=True)
        case "drop":
            drop_backup(root=Path(root), name=names[0])
        case "restore":
            restore(lake, Path(root), take_over=True)
