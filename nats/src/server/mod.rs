//! A real nats-server as a child process: what `peal up` runs and what tests run against.
//!
//! Nothing here knows streams; it finds the binary ([`find`]), writes a configuration file ([`config`]), starts the
//! process and waits until JetStream answers. [`node`] writes the configuration of servers on hosts of their own.

pub mod config;
pub mod find;
mod link;
pub mod node;
mod ports;
mod process;
mod routes;
mod skip;
pub mod version;

pub use config::{ClusterConfig, Leaf, Login, ServerConfig, Sync};
pub use link::Link;
pub use ports::{PortError, free_port};
pub use process::{Server, ServerError};
pub use routes::Routes;
pub use skip::skipped;
