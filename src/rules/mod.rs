//! See the crate's map.

pub mod network;
pub mod path;
