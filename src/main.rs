//! The binary: everything is in the library, so that tests reach it too.

use std::process::ExitCode;

/// Proxying allocates and frees small buffers all the time; see README, "Numbers".
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tollgate::cli::run()
}
