//! Decisions: pure functions of facts and `now`.

pub mod sliding_window;
