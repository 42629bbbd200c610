//! A file for each test.

mod cluster;
mod cut_off;
mod disk_full;
mod dispatcher_points;
mod graceful;
mod kills;
mod server_down;
