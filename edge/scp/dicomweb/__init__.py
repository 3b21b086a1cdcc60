"""The DICOMweb door (PS3.18): STOW-RS in, QIDO-RS and WADO-RS out, in a process of its own.

It is a receiving process beside those of DICOM: the same listener, journal, limits and walls (edge.scp.receiving), so
that no viewer delays a scanner. It reads the catalog and the spool, and writes nothing but the journal.

    protocol.py      what a first message is; one HTTP request after another on a connection
    access.py        who calls, and what it may (pure)
    resources.py     the table of resources
    server.py        a connection from its first request to its end; which resource answers a request
    exchange.py      one request with its caller, and an answer;  media_types.py, ranges.py  what the caller accepts

    store.py         STOW-RS;  receive.py  parts become records of the journal, the answer follows the flush
    composed.py      metadata and bulk data are put together;  report.py  the answer, in JSON or XML
    query.py         QIDO-RS
    holdings.py      what may be given away;  archives.py  what only an archive has is brought here
    retrieve.py      WADO-RS of objects;  converted.py  in another transfer syntax;  metadata.py
    pixels.py        frames and bulk data;  rendered.py, view_parameters.py  pictures
"""
