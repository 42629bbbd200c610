//! A file for each test.

/// Held by each scenario that keeps the whole machine busy: two at once would measure each other.
static WHOLE_MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

mod acks_lost;
mod cluster;
mod cut_off;
mod disk_full;
mod dispatcher_points;
mod graceful;
mod hub_killed;
mod kills;
mod server_down;
mod takeover;
