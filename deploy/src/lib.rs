//! The `peal` command: Peal for people. It starts everything on one machine (`peal up`), looks after a region
//! (`topology`, `keys`, `doctor`) and uses it (`send`, `tail`, `dead-letters`).
//!
//! It takes part in no delivery: it talks to the gateway and the dispatcher as anybody does, over HTTP and NATS, and
//! starts them as processes. [`cli`] is the table of commands, [`commands`] has a file for each; what several share
//! stands beside them.

pub mod cli;
pub mod commands;

pub mod api;
pub mod bench;
pub mod doctor;
pub mod up;

pub mod credentials;
pub mod deployment;
pub mod output;
pub mod region;
pub mod takeover;
