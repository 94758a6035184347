//! TOML with places: every error with its file, line, column, key and remedy.
