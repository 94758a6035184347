//! A Redis that is away, silent or back.
