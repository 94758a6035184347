//! One target of `../targets.rs`, named by TOLLGATE_FUZZ_TARGET, under libFuzzer.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../targets.rs"]
mod targets;

static TARGET: LazyLock<targets::Target> = LazyLock::new(|| {
    let name = std::env::var("TOLLGATE_FUZZ_TARGET").expect("TOLLGATE_FUZZ_TARGET names the target");
    targets::ALL.iter().find(|(own, _)| *own == name).unwrap_or_else(|| panic!("no target is called `{name}`")).1
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
