//! A file for each test.

mod acks_lost;
mod both_loaded;
mod channel_points;
mod cluster;
mod cut_off;
mod damage;
mod disk_full;
mod dispatcher_points;
mod failover;
mod graceful;
mod hosts;
mod hub_killed;
mod intents_unacknowledged;
mod kills;
mod linked_cluster;
mod provider_down;
mod server_down;
mod takeover;
mod upgrade;
