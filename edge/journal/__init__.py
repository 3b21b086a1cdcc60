"""The journal: the one commit point of every door.

`SegmentWriter.append` returns when the record is on stable storage; that is the acknowledgement. Behind it, `apply`
brings records into the spool and the catalog in batches, and what is applied is recycled. docs/journal.md has the
format, the order of flushes and why nothing that was answered is lost.

    record    heads and checksums, pure             segment  headers, size, laying out
    control   what running processes share          ring     the daemon's side: lay out, recycle; claim for writers
    slots     receive buffers in shared memory      writer   append
    replay    what a crash left                     apply    batches, and how far they are applied
    kinds/    one file for each kind of record

Failure: StorageFull and Shortage heal; StorageUnhealthy needs a person.
Limits: Linux; a local file system; one daemon.
"""
