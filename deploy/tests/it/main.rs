//! The `peal` command as people run it: the binary itself, against a real nats-server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test ends at the first thing that fails and says what it skips; the lints exempt only test functions"
)]

mod arguments;
mod bench;
#[path = "../faults/clock.rs"]
mod clock;
#[path = "../faults/disk.rs"]
mod disk;
mod doctor;
mod full_disk;
mod gateway;
mod keys;
mod linked;
mod regions;
mod render;
mod support;
mod tail;
mod takeover;
mod topology;
mod up;
