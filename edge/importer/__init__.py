"""The import door: files, folders, ZIP archives and discs that a person brings, or that a folder receives.

Promise: what is read is staged, durably and whole, and goes nowhere until somebody says whose it is: a person, or an
order that it names exactly. UIDs stay; what is changed is kept in Original Attributes Sequence (0400,0561). The same
object again adds nothing. A bad file does not end an import: it is named and left out. An interrupted import continues.

    sources.py      the files of a path: folders, ZIP, ISO 9660, within limits; links and slips are left out
    iso9660.py      a reader for images of discs
    recognize.py    what a file is, by its content
    directory.py    a DICOMDIR, compared with what is there: it is a hint, files are found without it
    staging.py      copies of the files beside the catalog, and what is known of each
    whose.py        does a patient known here agree with the one of an object? (pure)
    localize.py     the data set of an object with the local identity
    wrap.py         documents, pictures, videos and models as DICOM objects
    admit.py        staged objects go into the journal, as from any door
    folders.py      folders that are watched, `[drop.NAME]`
    service.py      the thread that does the last two
"""
