//! Files in, [`Boot`] and [`Snapshot`] out, or everything that is wrong with them.
//!
//! ```text
//! load (the only I/O) -> raw (serde) -> compile { boot, site, routes } (pure) -> (Boot, Snapshot)
//!                    env: ${VAR}, TOLLGATE__…          values, secrets: single values
//! ```
//!
//! [`Boot`] is what the process is started with; a [`Snapshot`] is what a reload swaps. What is wrong is
//! told all at once, each error with file, line, column, key and remedy ([`crate::contract::source::Located`]).
//! `app` loads, `tollgate check` loads and prints, `edge` asks the snapshot: [`Snapshot::site`], then the
//! site's [`router`]s. Machines get their own small `Settings` and never see these types.
//!
//! To add a setting: a field in `raw`, its reading beside its neighbours in [`boot`] or `site`, a line in
//! `config/gateway.toml`, and a bad file in `tests/config/` with the message it gives.

pub mod boot;
mod checks;
mod clients;
mod compile;
pub mod cors;
pub mod disk;
pub mod dotenv;
pub mod env;
pub mod footprint;
mod given;
mod identity;
mod keys;
pub mod load;
mod mail;
mod raw;
#[cfg(test)]
mod ready_tests;
mod reshape;
pub mod router;
mod routes;
mod site;
pub mod snapshot;
pub mod template;
#[cfg(test)]
mod tests;
pub mod traces;
mod upstreams;
mod values;

pub use boot::Boot;
pub use load::{Inputs, Loaded, Read, load, load_text, read, read_text};
pub use snapshot::{Route, Site, Snapshot};
