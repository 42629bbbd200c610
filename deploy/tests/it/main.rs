//! The `peal` command as people run it: the binary itself, against a real nats-server.

mod arguments;
mod bench;
mod doctor;
mod keys;
mod support;
mod tail;
mod topology;
mod up;
