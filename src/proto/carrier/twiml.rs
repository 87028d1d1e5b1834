//! TwiML documents that a relay has to write ("TwiML: <Stream>", read 2026-11), escaped by an XML writer.
