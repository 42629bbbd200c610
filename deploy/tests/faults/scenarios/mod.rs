//! A file for each test.

mod disk_full;
mod dispatcher_points;
mod graceful;
mod kills;
mod server_down;
