//! What stopped counting: the local set that every request reads.
