//! One binary, whole gateways: real sockets on port 0, real TLS, real stores, real backends.

mod access;
mod backend;
mod client;
mod dotenv;
mod edge;
mod harness;
mod key_plans;
mod limits;
mod operator;
mod products;
mod samples;
mod tokens;
mod transcript;
