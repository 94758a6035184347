//! See the crate's map.

pub mod claims;
pub mod identity;
pub mod password;
pub mod secret;
