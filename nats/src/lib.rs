//! Everything that Peal does with NATS: the only crate that imports async-nats.
//!
//! [`subjects`] names things, [`topology`] defines, compares and applies streams and consumers, [`mod@connect`] opens a
//! connection to a region, and [`server`] runs a real nats-server for `peal up` and for tests. What is stored in the
//! streams is defined in `peal-common`; what is done with it, in the gateway and the dispatcher.

pub mod subjects;
pub mod topology;

mod acks;
pub mod connect;
pub mod server;

pub mod broadcast;
pub mod browse;
pub mod catalog;
pub mod dead_letter;
pub mod delta;
pub mod fallback;
pub mod follow;
pub mod group;
pub mod handed_on;
pub mod inspect;
pub mod keys;
mod leave;
pub mod mirror;
pub mod missed;
pub mod publish;
pub mod pull;
pub mod put_off;
pub mod remove;
pub mod service;
pub mod standing;
pub mod state;
pub mod sweep;
pub mod turns;
pub mod unfinished;

pub use connect::{Connection, connect};
pub use subjects::{Region, Subjects};
