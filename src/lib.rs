//! Tollgate: a reverse-proxy authentication gateway.
//!
//! One binary stands in front of existing backends, terminates TLS, authenticates every request itself, enforces
//! roles, plans, permissions and per-organization limits, forwards what may pass with identity headers, and serves
//! the product's sign-in, token, session and API-key routes. This page is the map; `tests/layers.rs` keeps it true.
//!
//! # Layers
//!
//! Imports point down, never up and never sideways but where it says so.
//!
//! | layer | modules | what it is |
//! |---|---|---|
//! | 11 | `main`, [`cli`] | flags and subcommands |
//! | 10 | [`app`] | composition root: open, listen, tend, reload, hand over, drain |
//! | 9 | [`edge`] | the request's path, one stage a file; the admin listener |
//! | 8 | [`native`] | one file an operation; the operator's acts |
//! | 7 | [`gateway`] | the one shared handle: what is known, what is remembered |
//! | 6 | [`config`] | files to [`config::Boot`] and [`config::Snapshot`] |
//! | 5 | [`credential`] [`limit`] [`mail`] [`revocation`] [`store`] [`tls`] [`upstream`] [`observe`] | the machines; all may use `observe`, `credential` may use `store` and `revocation` |
//! | 4 | [`contract`] | a product's wire, as data |
//! | 3, 2 | [`rules`] | decisions: pure functions of facts and `now` |
//! | 1 | [`model`] | facts: ids, time, accounts, keys, problems |
//!
//! # A request's life
//!
//! Each of the [`edge::workers`] accepts on its own thread and runtime, and keeps its connections to their end.
//! [`edge::accept`] takes a socket, [`edge::handshake`] terminates TLS, [`edge::connection`] speaks HTTP/1.1 or HTTP/2,
//! and [`edge::exchange::handle`] is the story: [`edge::intake`] finds the site and the one path that everything decides
//! on, asks [`edge::certificate`] whether the connection suits that site, and [`edge::trace`] for the request's place in a
//! trace; [`edge::route`] finds what takes the request; [`edge::authenticate`] asks [`credential::Authenticator`] who is
//! calling; [`edge::authorize`] judges and is the only maker of a [`edge::authorize::Permit`]; [`edge::throttle`] spends
//! the windows; then [`edge::native`] performs an operation or [`edge::forward`] sends the request on. [`edge::respond`]
//! alone renders a refusal; [`edge::observe`] sees the end, and hands what is recorded of it to [`observe::spans`],
//! from where `app` sends it to a collector.
//! A WebSocket goes on in [`edge::tunnel`] while its [`edge::standing`] holds; an [`edge::agent`] shows its key in the
//! first message of one. [`edge::explain`] walks an imagined request the same way and tells the operator what it met.
//!
//! # What is known, and what is remembered
//!
//! [`gateway::Live`] is what the gateway knows: one configuration, immutable, replaced whole. Everything else in
//! [`gateway::Gateway`] is what it remembers: store, windows, caches, connections. A reload never touches memory.
//! Cached facts are exact, not timed: each depends on marks in [`revocation::Epochs`], which every committed change
//! moves, here at once and on other nodes through the store's change feed.
//!
//! # To add …
//!
//! | … | touch |
//! |---|---|
//! | a product | a file like those in `config/contracts/`; no Rust |
//! | a native operation | a variant of [`contract::operation::Operation`] and a file in [`native`] |
//! | a refusal | a variant of [`model::problem::Problem`] |
//! | a kind of credential | [`contract::Carried`], a file in [`credential`], an arm in its `authenticate` |
//! | a limiter backend | a file in [`limit`] and a [`limit::Backend`] |
//! | a setting | `config/raw.rs`, its reading beside its neighbours, `config/gateway.toml`, a bad file in `tests/config/` |
//! | a metric | a field in [`observe::metrics`] and one call |

pub mod app;
pub mod cli;
pub mod config;
pub mod contract;
pub mod credential;
pub mod edge;
pub mod gateway;
pub mod limit;
pub mod mail;
pub mod model;
pub mod native;
pub mod observe;
pub mod revocation;
pub mod rules;
pub mod store;
pub mod tls;
pub mod upstream;
