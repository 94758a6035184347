//! Files in, [`boot`] and [`snapshot`] out.

pub mod env;
mod raw;
pub mod router;
pub mod secrets;
pub mod snapshot;
