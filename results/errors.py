"""What users are told."""

from __future__ import annotations


class BenchError(ValueError):
    """Something that a user can mend: one sentence with the file or option, the key, the value, and what is allowed.

    Anything else that is raised is a mistake of this program, or of a model's own code, and shows its traceback.
    """


class StoreError(BenchError):
    """A file or folder that is not what it should be: damaged, of another program, version or trial. Names it."""
