//! Tollgate: a reverse-proxy authentication gateway.

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
