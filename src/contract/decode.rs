//! Reading a JSON or form body into fields.
