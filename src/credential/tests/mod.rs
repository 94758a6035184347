//! Claims about the whole of this module, each from both sides.

mod assertions;
mod attacks;
mod freshness;
mod keys;
mod outage;
mod principals;
