//! One binary, whole gateways: real sockets on port 0, real TLS, real stores, real backends.

mod access;
mod backend;
mod cli;
mod client;
mod doors;
mod dotenv;
mod durability;
mod edge;
mod fleet;
mod harness;
mod key_plans;
mod limits;
mod loss;
mod operate;
mod operator;
mod process;
mod products;
mod relay;
mod reload;
mod reshape;
mod samples;
mod serve;
mod soak;
mod tokens;
mod transcript;
mod wire;
