//! Files in, [`boot`] and [`snapshot`] out.

pub mod router;
pub mod secrets;
pub mod snapshot;
