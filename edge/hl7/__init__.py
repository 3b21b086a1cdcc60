"""HL7 version 2: bytes become messages, messages become facts, and the door that receives them over MLLP.

`framing` cuts frames, `message` reads one, `form` decides the answer from the message alone, `acknowledgement` writes
it, `extraction` takes out patients, merges and orders. All pure; `door` has the sockets. What needs the catalog follows
the answer (edge.intake.hl7_entry).
"""
