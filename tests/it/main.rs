//! The gateway seen from outside.

mod samples;
