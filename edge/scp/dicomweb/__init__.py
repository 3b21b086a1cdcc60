"""The DICOMweb door (PS3.18): STOW-RS in, QIDO-RS and WADO-RS out, in a process of its own.

It is a receiving process beside those of DICOM: the same listener, journal, limits and walls (edge.scp.receiving), so
that no viewer stands in a scanner's way. It reads the catalog and the spool, and writes nothing but the journal.

    protocol.py      what a first message is; one HTTP request after another on a connection
    access.py        who calls, and what it may (pure)
    resources.py     the table of resources
    server.py        a connection from its first request to its end; which resource answers a request
    multipart.py     the parts of a body, one after another (RFC 2046)
    receive.py       STOW-RS: parts become records of the journal; the answer follows the flush
    report.py        what STOW-RS answers, in JSON or XML
"""
