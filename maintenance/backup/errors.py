"""What can go wrong with backups, taken and restored."""

from duckmesh.kernel.errors import Conflict, Corrupt, Denied, Invalid, NotFound


class BackupKeyInvalid(Invalid):
    """DUCKMESH_BACKUP_KEY is no key of age."""

    code = "BACKUP_KEY_INVALID"


class BackupKeyWrong(Denied):
    """The backup is encrypted, and the key that was given, if any, does not open it."""

    code = "BACKUP_KEY_WRONG"


class BackupNotFound(NotFound):
    """The directory has no backup of this name, or none at all."""

    code = "BACKUP_NOT_FOUND"


class BackupUnfinished(Conflict):
    """The backup was never finished, or is half removed: nothing is restored from it."""

    code = "BACKUP_UNFINISHED"


class BackupDamaged(Corrupt):
    """A file of the backup is not what was written."""

    code = "BACKUP_DAMAGED"


class BackupBusy(Conflict):
    """Another backup, or the removal of one, uses the directory."""

    code = "BACKUP_BUSY"


class BackupIncomplete(Corrupt):
    """An object that the catalog names is missing in the store or damaged, so that no whole backup can be taken."""

    code = "BACKUP_INCOMPLETE"


class RestoreTargetNotEmpty(Conflict):
    """The database to restore into holds tenants or other people's tables."""

    code = "RESTORE_TARGET_NOT_EMPTY"


class RestoreTooNew(Conflict):
    """The backup is of a newer version of DuckMesh than this one."""

    code = "RESTORE_TOO_NEW"


class RestoreObjectsMissing(Corrupt):
    """The store lacks objects that the backup's catalog names, or has others in their place."""

    code = "RESTORE_OBJECTS_MISSING"
