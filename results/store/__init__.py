"""The files of a run: names, records, schemas, locks, shards and their merge; on a disk or in an object store."""
