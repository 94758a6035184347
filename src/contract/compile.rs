//! From the file as written to a contract that can be used.
