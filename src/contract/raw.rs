//! The file as written: serde, nothing resolved.
