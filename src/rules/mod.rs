//! Decisions: pure functions of facts and `now`. No I/O, no clock, no randomness, no logging.

pub mod authorize;
pub mod claims;
pub mod forwarded;
pub mod identity;
pub mod network;
pub mod password;
pub mod path;
pub mod rewrite;
pub mod secret;
pub mod sliding_window;
pub mod split;
pub mod trace;
