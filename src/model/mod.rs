//! Facts, and nothing else: the nouns every other layer speaks.
//!
//! No sockets, no SQL, no runtime. A type stands here when two layers above need it; what only one
//! machine needs lives with that machine.

pub mod access;
pub mod account;
pub mod api_key;
pub mod change;
pub mod code;
pub mod entropy;
pub mod id;
pub mod mail;
pub mod principal;
pub mod problem;
pub mod refresh;
pub mod refusal;
pub mod secret;
pub mod session;
pub mod time;
pub mod window;
